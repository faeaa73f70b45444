"""A file in a multipart form, streamed to where it belongs; a megabyte at a time, never whole in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import BodyPartReader, web

from swashplate.errors import InvalidRequestError
from swashplate.http.bodies import FILE_LIMIT, over_limit

PIECE = 1 << 20
ENOUGH = 512
"""Bytes that ``check`` is shown at most."""


class Writer(Protocol):
    def write(self, content: bytes, /) -> object: ...


@dataclass(frozen=True)
class Received:
    """A file that came: the name it has at the sender, and its bytes."""

    filename: str
    size: int


async def read_upload(
    request: web.Request,
    into: Writer,
    *,
    field: str = "file",
    limit: int = FILE_LIMIT,
    check: Callable[[str, bytes], None] = lambda _name, _first: None,
) -> Received:
    """Write the file of the form's ``field`` into ``into``, which the caller commits or throws away.

    ``check`` is called once, before anything is written, with the file's name and its first bytes, and raises to refuse
    it. Raises ``InvalidRequestError``, and ``TooLargeError`` over ``limit`` bytes.
    """
    if request.content_type != "multipart/form-data":
        raise InvalidRequestError(
            "the body must be a form with a file", code="unsupported_content_type", hint=f"curl -F {field}=@FILE"
        )
    if (request.content_length or 0) > limit + PIECE:
        raise over_limit(limit)
    try:
        return await _read(request, into, field, limit, check)
    except (ValueError, AssertionError, RuntimeError, EOFError) as error:  # whatever aiohttp's reader meets
        raise InvalidRequestError(f"the form cannot be read: {error}", code="malformed_body") from error


async def _read(
    request: web.Request, into: Writer, field: str, limit: int, check: Callable[[str, bytes], None]
) -> Received:
    received: Received | None = None
    form = await request.multipart()
    while (part := await form.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name != field:
            continue
        if received is not None:
            raise InvalidRequestError(f"field {field} is given twice")
        if not part.filename:
            raise InvalidRequestError(f"field {field} must be a file with a name", hint=f"curl -F {field}=@FILE")
        received = Received(part.filename, await _write(part, into, limit, check))
    if received is None:
        raise InvalidRequestError(f"field {field} is missing", hint=f"curl -F {field}=@FILE")
    return received


async def _write(part: BodyPartReader, into: Writer, limit: int, check: Callable[[str, bytes], None]) -> int:
    size, waiting, checked = 0, bytearray(), False
    while True:
        piece = await part.read_chunk(PIECE)
        size += len(piece)
        if size > limit:
            raise over_limit(limit)
        waiting += piece
        if not checked and (len(waiting) >= ENOUGH or not piece):
            check(part.filename or "", bytes(waiting[:ENOUGH]))
            checked = True
        if checked and waiting and (len(waiting) >= PIECE or not piece):
            await asyncio.to_thread(into.write, bytes(waiting))
            waiting.clear()
        if not piece:
            return size
