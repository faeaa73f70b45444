"""Names of models: ``fl/models/{line}_v{version}``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from swashplate.errors import InvalidRequestError
from swashplate.topics import level

DEFAULT_LINE = "global_model"
_PATTERN = re.compile(r"(?:fl/models/)?(?P<line>[A-Za-z0-9][A-Za-z0-9_-]{0,127})_v(?P<version>[0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class ModelRef:
    line: str
    version: int

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Raises ``InvalidRequestError`` with code ``invalid_model_ref``."""
        found = _PATTERN.fullmatch(text)
        if not found:
            raise InvalidRequestError(
                f"model reference {text!r} is not of the form fl/models/LINE_vN",
                code="invalid_model_ref",
                hint="for example fl/models/global_model_v0",
            )
        return cls(level(found["line"], "model line"), int(found["version"]))

    @property
    def uri(self) -> str:
        return f"fl/models/{self.line}_v{self.version}"

    @property
    def path(self) -> str:
        """Where the model registry keeps it, with all that belongs to it."""
        return f"/lines/{self.line}/models/{self.version}"

    @property
    def read_path(self) -> str:
        """Where it can be read, for the default line at Propeller's model registry too, which knows no lines."""
        return f"/models/{self.version}" if self.line == DEFAULT_LINE else self.path
