"""Between the manager, the proplets and the registry proxy."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from swashplate.messages.base import Digest, Message


class Resolve(Message):
    """Which binary does this image reference mean now?"""

    request_id: str
    image: str


class Resolved(Message):
    """Either ``digest``, ``size`` (bytes) and ``media_type`` of the WASM binary, or ``error`` and ``code``."""

    request_id: str
    image: str
    digest: Digest | None = None
    size: int = 0
    media_type: str = ""
    error: str = ""
    code: str = ""
    retryable: bool = False

    @model_validator(mode="after")
    def _digest_or_error(self) -> Self:
        if (self.digest is None) == (not self.error):
            raise ValueError("exactly one of digest and error must be given")
        return self


class BlobRequest(Message):
    """A proplet wants these chunks (counted from 0; all that it grants for now). No index asks for the description alone.

    ``image`` says where the binary comes from; without it the manager's own blob store is meant.
    """

    request_id: str
    digest: Digest
    image: str = ""
    indexes: list[int] = Field(default_factory=list, max_length=4096)


class BlobInfo(Message):
    """The description of a binary, or ``error`` and ``code``."""

    request_id: str
    digest: Digest
    size: int = 0
    chunk_size: int = 0
    chunks: int = 0
    media_type: str = ""
    error: str = ""
    code: str = ""
    retryable: bool = False
