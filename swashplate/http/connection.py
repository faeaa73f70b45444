"""One connection: how long we wait for the pieces of a request, and what we answer to what is not HTTP."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from swashplate import logging
from swashplate.errors import InvalidRequestError, SwashplateError
from swashplate.http.routes import refusal

log = logging.get("http")

LEAST_BODY_BYTES = 1024
MAX_HEADER_BYTES = 8190


class RequestTimeoutError(SwashplateError):
    """The rest of the request did not come."""

    status = 408
    default_code = "request_timeout"
    default_retryable = True


@dataclass(frozen=True)
class Patience:
    """In seconds: ``header`` for a request line and headers to be complete, ``body`` for each further
    ``LEAST_BODY_BYTES`` of a body that somebody waits for, ``idle`` for the next request.
    """

    header: float = 10.0
    body: float = 30.0
    idle: float = 75.0


def malformed(error: BaseException | None) -> InvalidRequestError:
    """What the HTTP parser found wrong, in one line."""
    reason = " ".join(str(getattr(error, "message", "") or error).replace("^", " ").split()).rstrip(":")
    if isinstance(error, LineTooLong):
        return InvalidRequestError(
            f"the request line or a header is over the limit of {MAX_HEADER_BYTES} bytes", code="header_too_large"
        )
    return InvalidRequestError(f"this is not a well-formed HTTP request: {reason[:200]}", code="malformed_request")


async def expected(request: web.Request) -> web.Response | None:
    """Tell a client that waits with its body to go on; the answer when it expects what HTTP does not know."""
    if request.version != HttpVersion11:
        return None
    if request.headers["Expect"].lower() != "100-continue":
        return refusal(InvalidRequestError("header Expect must be 100-continue", code="malformed_request"))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer has not begun
    return None


class Connection(web.RequestHandler):
    """aiohttp's own, with deadlines, and with our error shape where no handler is asked."""

    def __init__(
        self, manager: web.Server, *, patience: Patience, loop: asyncio.AbstractEventLoop, **more: Any
    ) -> None:
        super().__init__(manager, loop=loop, keepalive_timeout=patience.idle, **more)
        self._patience = patience
        self._arrived = 0
        self._body: StreamReader | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._arrived += len(data)
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if self._deadline is None:
            self._expect()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _unfinished_body(self) -> StreamReader | None:
        body = self._body
        return body if body is not None and not body.is_eof() and body.exception() is None else None

    def _expect(self) -> None:
        body = self._unfinished_body()
        if body is not None:
            self._deadline = self._loop.call_later(self._patience.body, self._body_due, body, self._arrived)
        elif not self._messages and self._waiter is not None and not self._waiter.done():
            self._deadline = self._loop.call_later(self._patience.header, self._header_due, self._request_count)

    def _header_due(self, count: int) -> None:
        self._deadline = None
        if self._request_count != count or self.transport is None:
            if self._unfinished_body() is not None:
                self._expect()
            return
        seconds = self._patience.header
        error = RequestTimeoutError(f"the request's header was not complete within {seconds:g} s")
        self._last_word(error)

    def _body_due(self, body: StreamReader, arrived: int) -> None:
        self._deadline = None
        if self.transport is None or body.is_eof() or body.exception() is not None:
            return
        awaited = body._waiter is not None  # noqa: SLF001  # else it is us who do not read on
        if awaited and self._arrived - arrived < LEAST_BODY_BYTES:
            seconds = self._patience.body
            body.set_exception(
                RequestTimeoutError(f"fewer than {LEAST_BODY_BYTES} bytes of the body came within {seconds:g} s")
            )
            self._lingering_time = 0.0
            self.close()
            return
        self._expect()

    def _last_word(self, error: SwashplateError) -> None:
        """Answer without a request, and hang up."""
        body = refusal(error).body
        assert isinstance(body, bytes)
        head = (
            f"HTTP/1.1 {error.status} Request Timeout\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: {uuid.uuid4().hex}\r\nConnection: close\r\n\r\n"
        )
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(head.encode() + body)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What cannot be parsed, and what went wrong outside of every handler."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        request_id = uuid.uuid4().hex
        if status < 500:
            log.debug("not a request", reason=message, remote=request.remote, request_id=request_id)
            response = refusal(malformed(exc))
        else:
            log.error("request failed outside of its handler", request_id=request_id, exc_info=exc)
            response = refusal(SwashplateError("internal error", hint="the service's log has the details"), request_id)
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response


class Server(web.Server):
    """Makes such connections."""

    def __init__(self, *arguments: Any, patience: Patience, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._patience = patience

    def __call__(self) -> web.RequestHandler:
        return Connection(self, patience=self._patience, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """aiohttp's own, over such a server."""

    __slots__ = ("_patience",)

    def __init__(self, app: web.Application, *, patience: Patience, **more: Any) -> None:
        super().__init__(app, **more)
        self._patience = patience

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        options = {key: value for key, value in made._kwargs.items() if key != "keepalive_timeout"}  # noqa: SLF001
        return Server(
            made.request_handler,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            patience=self._patience,
            **options,
        )
