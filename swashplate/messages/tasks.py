"""The manager's task API, as its callers and the manager both see it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from swashplate.messages.base import Identifier, JsonObject, Message

MAX_METADATA_BYTES = 1 << 20
MAX_START_BYTES = 192 * 1024


def _text_of_number(value: object) -> object:
    """Inputs may be strings or numbers; they travel as strings."""
    if isinstance(value, bool):
        return value
    return str(value) if isinstance(value, int | float) else value


Input = Annotated[str, BeforeValidator(_text_of_number)]


def _no_nul(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not key or "=" in key or "\0" in key or "\0" in text:
            raise ValueError(f"{key!r} is not a usable environment entry")
    return value


class TaskCreate(Message):
    """A task to be. Either ``image_url`` (an OCI reference) or ``file`` (base64 of a WASM binary) names what runs.

    ``timeout_s`` covers everything from accepting the start to the result, in seconds. ``retries`` is how many further
    attempts follow one that ended for a reason that another attempt could change. ``start`` starts it in the same call.
    """

    name: str = Field(min_length=1, max_length=256)
    kind: str = Field(default="standard", pattern="^(standard|federated)$")
    image_url: str = Field(default="", max_length=2048)
    file: str = ""
    inputs: list[Input] = Field(default=[], max_length=1024)
    cli_args: list[str] | None = None
    env: dict[str, str] = {}
    proplet_id: Identifier | None = None
    dataset: str = Field(default="", max_length=256)
    priority: int = Field(default=50, ge=0, le=100)
    metadata: JsonObject = {}
    timeout_s: float = Field(default=300, gt=0, le=30 * 86400)
    retries: int = Field(default=0, ge=0, le=100)
    tokens: dict[str, str] = {}
    start: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.image_url) == bool(self.file):
            raise ValueError("exactly one of image_url and file must be given")
        _no_nul(self.env)
        if any("\0" in text for text in (self.name, *self.inputs, *(self.cli_args or ()))):
            raise ValueError("name, inputs and cli_args must not contain NUL")
        if len(self.model_dump_json(include={"metadata"}).encode()) > MAX_METADATA_BYTES:
            raise ValueError(f"metadata must be at most {MAX_METADATA_BYTES} bytes")
        rest = len(self.model_dump_json(exclude={"file", "metadata"}).encode())
        if rest > MAX_START_BYTES:
            raise ValueError(
                f"name, inputs, cli_args and env together must be at most {MAX_START_BYTES} bytes, got {rest}"
            )
        return self

    def file_bytes(self) -> bytes:
        """The decoded ``file``; raises ``ValueError`` when it is not base64 or not a WASM binary."""
        try:
            content = base64.b64decode(self.file, validate=True)
        except binascii.Error as error:
            raise ValueError(f"file is not base64: {error}") from error
        if not content.startswith(b"\0asm"):
            raise ValueError("file is not a WASM binary: it does not start with the bytes 00 61 73 6d")
        return content
