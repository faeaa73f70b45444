"""JSON bodies of requests: read, checked, and refused with the field and the reason."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from swashplate.errors import InvalidRequestError, TooLargeError, from_validation
from swashplate.http import strict_json

MIB = 1 << 20
BODY_LIMIT = 2 * MIB
"""Bytes of a body, unless its route or its service allows more."""
FILE_LIMIT = 100 * MIB
"""Bytes where a file or a model may come."""
LARGE_BODY = MIB // 4
"""Bytes. A larger body is looked through beside the event loop, which has others to answer."""
MOST_VALUES = MIB // 4
"""Numbers, texts, lists, … in one body. As objects they take many times the bytes that they took as text."""
LIMIT = web.RequestKey("body_limit", int)
"""Bytes that the body of this request may have."""

Model = TypeVar("Model", bound=BaseModel)


def over_limit(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {limit} bytes")


async def read_bytes(request: web.Request) -> bytes:
    """The whole body. One that says that it is too large is refused before it is read."""
    limit = request[LIMIT]
    if (request.content_length or 0) > limit:
        raise over_limit(limit)
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > limit:
            raise over_limit(limit)
    return bytes(body)


async def read_json(request: web.Request) -> bytes:
    """The JSON body as it came. A content type is demanded so that a web page cannot post here without asking first."""
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise InvalidRequestError(
            "the body must be JSON in UTF-8",
            code="unsupported_content_type",
            hint="send Content-Type: application/json",
        )
    return await read_bytes(request)


def text_of(body: bytes) -> str:
    """Raises ``InvalidRequestError``."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"body is not UTF-8: {error}", code="malformed_json") from error


def parse(body: bytes, model: type[Model]) -> Model:
    """Raises ``InvalidRequestError`` naming the first wrong field."""
    text = text_of(body)
    try:
        found = model.model_validate_json(text)
    except ValidationError as error:
        raise from_validation(error) from error
    strict_json.check(text)
    return found


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """Parse and check the body; the error names the first wrong field."""
    body = await read_json(request)
    if len(body) > LARGE_BODY:
        return await asyncio.to_thread(_parse_large, body, model)
    return parse(body, model)


def _parse_large(body: bytes, model: type[Model]) -> Model:
    if values_in(body) > MOST_VALUES:
        raise TooLargeError(f"the body has more than {MOST_VALUES} values", code="too_many_values")
    return parse(body, model)


def values_in(body: bytes) -> int:
    """At least as many as there are values in this JSON, and hardly more unless its texts are full of punctuation.

    Counted a megabyte at a time, so that a thread lets others have their turn.
    """
    return 1 + sum(body.count(mark, at, at + MIB) for at in range(0, len(body), MIB) for mark in (b",", b"[", b"{"))
