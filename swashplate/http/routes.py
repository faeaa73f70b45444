"""One operation of an HTTP service: what it takes, what it answers, and how it can fail."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from swashplate.errors import SwashplateError
from swashplate.http.parameters import Parameter

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"
_encoded = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True)
class Route:
    """``answer`` is what ``status`` brings; ``also`` holds what other successes bring, None for an empty body.

    ``takes`` and ``gives`` are media types. A body that is no model is described by ``body_schema``. ``errors`` are the
    statuses of failures beside those that every route shares (a malformed request, a missing token).
    """

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    parameters: tuple[Parameter[Any], ...] = ()
    errors: tuple[int, ...] = ()
    example: Any = None
    open: bool = False
    """Needs no token of the service: its handler demands a proof of its own."""
    bearer: bool = False
    """That proof is a bearer token too."""
    limit: int = 0
    """Bytes that its body may have; 0 for the service's limit."""
    hidden: bool = False
    """Stands in no description: a refusal of everything else."""
    description: str = ""
    tag: str = ""
    takes: str = JSON
    gives: str = JSON
    body_schema: Mapping[str, Any] | None = None
    body_required: bool = True
    body_example: Any = None
    also: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, and what they say."""
    error_schema: Mapping[str, Any] | None = None
    """The shape of this route's own errors where a foreign specification sets it."""


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; a model is written without its absent fields."""
    text = content.model_dump_json(exclude_none=True) if isinstance(content, BaseModel) else _encoded(content)
    return web.Response(
        body=f"{text}\n".encode(), status=status, headers={"Content-Type": f"{JSON}; charset=utf-8", **(headers or {})}
    )


def refusal(error: SwashplateError, request_id: str = "") -> web.Response:
    """An error as an answer; one that is our fault names the request, so that the log can be searched for it."""
    body = error.as_json()
    if error.status >= 500 and request_id:
        body["request_id"] = request_id
    return answer(body, status=error.status)
