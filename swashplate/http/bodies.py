"""JSON bodies of requests: read, checked, and refused with the field and the reason."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from swashplate.errors import InvalidRequestError, TooLargeError, from_validation
from swashplate.http import strict_json

MIB = 1 << 20
BODY_LIMIT = 100 * MIB
LARGE_BODY = MIB // 4
"""Bytes. A larger body is looked through beside the event loop, which has others to answer."""

Model = TypeVar("Model", bound=BaseModel)


def over_limit(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {limit} bytes")


async def read_bytes(request: web.Request) -> bytes:
    """The whole body. One that says that it is too large is refused before it is read."""
    limit = request.app._client_max_size  # noqa: SLF001  # the only place where aiohttp keeps it
    if (request.content_length or 0) > limit > 0:
        raise over_limit(limit)
    return await request.read()


async def read_text(request: web.Request) -> str:
    """The JSON body as text. A content type is demanded so that a web page cannot post here without asking first."""
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise InvalidRequestError(
            "the body must be JSON in UTF-8",
            code="unsupported_content_type",
            hint="send Content-Type: application/json",
        )
    try:
        return (await read_bytes(request)).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"body is not UTF-8: {error}", code="malformed_json") from error


def parse(text: str, model: type[Model]) -> Model:
    """Raises ``InvalidRequestError`` naming the first wrong field."""
    try:
        found = model.model_validate_json(text)
    except ValidationError as error:
        raise from_validation(error) from error
    strict_json.check(text)
    return found


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """Parse and check the body; the error names the first wrong field."""
    text = await read_text(request)
    if len(text) > LARGE_BODY:
        return await asyncio.to_thread(parse, text, model)
    return parse(text, model)
