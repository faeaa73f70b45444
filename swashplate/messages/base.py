"""The common base of every message and the types that several of them use."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from swashplate.errors import InvalidRequestError, from_validation
from swashplate.topics import level

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def _as_level(value: str) -> str:
    try:
        return level(value)
    except InvalidRequestError as error:
        raise ValueError(error.sentence) from error


Identifier = Annotated[str, AfterValidator(_as_level)]
"""An id that can stand as one topic level."""


LEAST, MOST = -(2**63), 2**64 - 1
"""What every reader of a message can hold: Go, Rust and databases have no larger whole numbers."""


def _finite(value: Any, depth: int = 0) -> Any:
    if depth > 64:
        raise ValueError("nested deeper than 64 levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    if isinstance(value, int) and not LEAST <= value <= MOST:
        raise ValueError("whole numbers must fit into 64 bits")
    if isinstance(value, dict):
        for item in value.values():
            _finite(item, depth + 1)
    elif isinstance(value, list):
        if set(map(type, value)) == {float}:  # a large tensor, at the speed of C
            if not all(map(math.isfinite, value)):
                raise ValueError("numbers must be finite")
            return value
        for item in value:
            _finite(item, depth + 1)
    return value


Json = Annotated[Any, AfterValidator(_finite)]
"""Any JSON value with finite numbers, at most 64 levels deep."""

JsonObject = Annotated[dict[str, Any], AfterValidator(_finite)]


class Message(BaseModel):
    """Frozen; unknown fields of a newer or foreign peer are ignored; wrong types are refused, never coerced.

    A default that could be changed is made by a factory: pydantic would copy it for every message, deeply, which took two
    thirds of the time that it takes to read a task.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, payload: bytes | str) -> Self:
        """Parse JSON text; raises ``InvalidRequestError`` naming the field."""
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise from_validation(error, cls.__name__) from error


def digest_hex(digest: str) -> str:
    """The 64 hex digits of ``sha256:…``."""
    return digest.removeprefix("sha256:")
