"""The policy file: its tables and fields, and what must be true of them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from proplet.settings import MOST_STACK
from swashplate import limits
from swashplate.messages import Digest, RunLimits
from swashplate.messages.sandbox import Isolation


def _limits(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    found = limits.read(value)
    if found.get("stack_bytes", 0) > MOST_STACK:
        raise ValueError(f"stack: must be at most {limits.shown('stack_bytes', MOST_STACK)}")
    return found


Limits = Annotated[RunLimits, BeforeValidator(_limits)]
Access = Literal["read", "write"]


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


def _pattern(text: str) -> str:
    if "*" in text.partition("/")[0]:
        raise ValueError("its first part must be written out: whose images they are depends on it")
    return text


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Directory(_Table):
    """A folder of this machine that tasks may be let into. ``write`` says whether that may ever be more than to read."""

    path: Annotated[str, AfterValidator(_absolute)]
    write: bool = False


class Signer(_Table):
    """``public_key``: Ed25519, as ``openssl pkey -pubout`` prints it, or the base64 of its 32 bytes."""

    public_key: str = Field(min_length=1)


class Grants(_Table):
    """What is granted; what is absent is left to whoever else speaks about the task."""

    directories: dict[str, Access] = {}
    env: list[Annotated[str, Field(min_length=1, pattern=r"^[^=\x00]+$")]] = []
    isolation: Isolation | None = None
    clock: bool | None = None
    random: bool | None = None


class Grant(Grants):
    """For the tasks that it names: all that it says of them must be so."""

    image: Annotated[str, AfterValidator(_pattern)] = ""
    digest: Digest | None = None
    signer: str = ""

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not (self.image or self.digest or self.signer):
            raise ValueError("needs image, digest or signer; what is for every task belongs into [default]")
        return self

    def is_for(self, image: str, digest: str, signers: frozenset[str]) -> bool:
        return (
            (not self.image or _glob(self.image).fullmatch(image) is not None)
            and self.digest in (None, digest)
            and (not self.signer or self.signer in signers)
        )


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    """``*`` is anything within one part of a reference, ``**`` anything at all."""
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts))


class PolicyFile(_Table):
    """The whole of it. ``limits`` are what a task has that asks for nothing, ``ceilings`` what none can exceed."""

    directories: dict[str, Directory] = {}
    signers: dict[str, Signer] = {}
    limits: Limits = RunLimits()
    ceilings: Limits = RunLimits()
    default: Grants = Grants()
    grant: list[Grant] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for where, each in self._entries():
            for name, access in each.directories.items():
                if name not in self.directories:
                    raise ValueError(f"{where}.directories: there is no [directories.{name}]")
                if access == "write" and not self.directories[name].write:
                    raise ValueError(f"{where}.directories.{name}: [directories.{name}] does not have write = true")
            signer = each.signer if isinstance(each, Grant) else ""
            if signer and signer not in self.signers:
                raise ValueError(f"{where}.signer: there is no [signers.{signer}]")
        return self

    def _entries(self) -> list[tuple[str, Grants]]:
        return [("default", self.default), *((f"grant {n}", each) for n, each in enumerate(self.grant, 1))]
