"""A table of routes becomes a service: one error shape, request ids, ``/health``, ``/metrics`` and its own description."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict

from swashplate import __version__, logging, ports
from swashplate.access import Access
from swashplate.errors import InvalidRequestError, SwashplateError, UnauthorizedError, UnavailableError
from swashplate.http import docs_page, openapi
from swashplate.http.bodies import BODY_LIMIT, LIMIT, over_limit
from swashplate.http.connection import Patience, Runner, expected
from swashplate.http.routes import Handler, Route, answer, refusal

log = logging.get("http")

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}

Check = Callable[[], Awaitable[None]]
"""Raises ``SwashplateError`` saying what is down."""

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
REQUEST_ID = web.RequestKey("request_id", str)
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


class Health(BaseModel):
    """``status`` is ``pass`` or ``ok``; what else is said differs from service to service."""

    model_config = ConfigDict(extra="allow")

    status: str


class Description(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


def _request_id(request: web.Request) -> str:
    """The caller's own, when it can stand in a header and in a log without doing harm."""
    given = request.headers.get("X-Request-Id", "")
    return given if _SANE_ID.fullmatch(given) else os.urandom(16).hex()


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    if request.method == "HEAD":
        request.writer.length = 0  # a handler that streams would send the body nevertheless
    response.headers["X-Request-Id"] = request.get(REQUEST_ID) or _request_id(request)


class HttpService:
    """One HTTP service: its routes, health checks and counters. There are no CORS headers: no web page may call us."""

    def __init__(
        self,
        name: str,
        routes: Iterable[Route],
        *,
        checks: Mapping[str, Check] | None = None,
        health: Callable[[], dict[str, Any]] = lambda: {"status": "ok"},
        body_limit: int = BODY_LIMIT,
        access: Access | None = None,
        description: str = "",
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self._access = access or Access()
        self._patience = patience or Patience()
        self._open: set[web.AbstractRoute] = set()
        self._limits: dict[web.AbstractRoute, int] = {}
        self.registry = CollectorRegistry()
        self._checks = dict(checks or {})
        self._health_body = health
        self._count = Counter(
            f"{name}_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            f"{name}_http_request_seconds", "Time to answer, in seconds", ["method", "route"], registry=self.registry
        )
        # There are as many of these as routes; to find one costs more than to count.
        self._counted = lru_cache(maxsize=1024)(self._count.labels)
        self._timed = lru_cache(maxsize=1024)(self._seconds.labels)
        self.app = web.Application(middlewares=[self._middleware], client_max_size=body_limit)
        self.app.on_response_prepare.append(_mark)
        self._body_limit = body_limit
        described = [*routes, *self._own_routes()]
        self._add(described)
        self.document = openapi.document(
            name,
            __version__,
            [route for route in described if not route.hidden],
            secured=bool(self._access.token),
            basic=self._access.basic,
            description=description,
            body_limit=body_limit,
        )

    def _add(self, routes: list[Route]) -> None:
        """What can be read can be asked for its headers alone."""
        heads = {route.path for route in routes if route.method == "HEAD"}
        for route in routes:
            methods = ["GET", "HEAD"] if route.method == "GET" and route.path not in heads else [route.method]
            for method in methods:
                added = self.app.router.add_route(method, route.path, route.handler, expect_handler=expected)
                if route.open:
                    self._open.add(added)
                if route.limit:
                    self._limits[added] = route.limit

    def _own_routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/health",
                self._health,
                "Can this service do its work now?",
                description="Needs no token. With 503 it says in ``down`` what does not answer.",
                answer=Health,
                errors=(503,),
                open=True,
                tag="service",
                example=self._health_body(),
            ),
            Route("GET", "/metrics", self._metrics, "Counters for Prometheus", gives="text/plain", tag="service"),
            Route("GET", "/openapi.json", self._openapi, "This description", answer=Description, tag="service"),
            Route("GET", "/docs", self._docs, "This description, for people", gives="text/html", tag="service"),
        ]

    async def _health(self, request: web.Request) -> web.Response:
        down: dict[str, str] = {}
        for name, check in self._checks.items():
            try:
                async with asyncio.timeout(5):
                    await check()
            except TimeoutError:
                down[name] = "no answer within 5 s"
            except SwashplateError as error:
                down[name] = error.sentence
        if down:
            shown = ", ".join(f"{name}: {reason}" for name, reason in down.items())
            told = {"status": "fail", "error": shown, "code": "unavailable", "down": down}
            return answer({**told, "request_id": request[REQUEST_ID]}, status=503)
        return answer(self._health_body())

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _openapi(self, _: web.Request) -> web.Response:
        return answer(self.document)

    async def _docs(self, _: web.Request) -> web.Response:
        return web.Response(text=docs_page.page(self.document), content_type="text/html")

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "unknown"
        method = request.method if request.method in METHODS else "other"
        request_id = request[REQUEST_ID] = _request_id(request)
        request[LIMIT] = self._limits.get(request.match_info.route, self._body_limit)
        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            response = await self._guarded(request, handler)
            took = time.perf_counter() - began
            log.debug("request", method=request.method, path=request.path, status=response.status, seconds=took)
        finally:
            structlog.contextvars.reset_contextvars(**bound)
        self._counted(method, route, response.status).inc()
        self._timed(method, route).observe(took)
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id: str = request[REQUEST_ID]
        try:
            if request.match_info.route not in self._open:
                self._access.check(request.method, request.path, request.headers)
            if "%00" in request.path_qs:
                raise InvalidRequestError("the address must not contain NUL (%00)", code="malformed_request")
            return await handler(request)
        except UnauthorizedError as error:
            response = refusal(error)
            response.headers["WWW-Authenticate"] = self._access.challenge
            return response
        except SwashplateError as error:
            if error.status >= 500:
                log.warning(
                    "request failed", method=request.method, path=request.path, error=error.sentence, hint=error.hint
                )
            return refusal(error, request_id)
        except web.HTTPRequestEntityTooLarge:
            return refusal(over_limit(request[LIMIT]))
        except web.HTTPException as error:
            return _of_aiohttp(request, error)
        except (web.RequestPayloadError, HttpProcessingError) as error:
            reason = " ".join(str(error).split())
            return refusal(InvalidRequestError(f"the body cannot be read: {reason}", code="malformed_body"))
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                log.error("no space for what was sent", method=request.method, path=request.path, reason=error.strerror)
                return refusal(UnavailableError("the service's disk is full", code="disk_full"), request_id)
            log.exception("request handler failed", method=request.method, path=request.path)
            return refusal(SwashplateError("internal error", hint="the service's log has the details"), request_id)

    @asynccontextmanager
    async def serving(
        self, host: str, port: int, *, also: Iterable[int] = (), setting: str = ""
    ) -> AsyncIterator[HttpService]:
        """Serve until the context ends; ``also`` are further ports that are taken only when free.

        Raises ``ConfigurationError`` naming the port, its ``setting`` and, when it can be known, who holds it.
        """
        async with self._running() as runner:
            try:
                await web.TCPSite(runner, host, port, reuse_address=True).start()
            except OSError as error:
                raise ports.taken(port, error, service=self.name, setting=setting) from error
            for extra in also:
                try:
                    await web.TCPSite(runner, host, extra, reuse_address=True).start()
                except OSError:
                    log.info("not serving on the further port: it is taken", port=extra)
            log.info("serving HTTP", address=f"http://{host}:{port}")
            yield self

    @asynccontextmanager
    async def serving_on(self, listening: socket.socket) -> AsyncIterator[HttpService]:
        """Serve whoever connects, and has connected, to ``listening``, until the context ends."""
        async with self._running() as runner:
            await web.SockSite(runner, listening).start()
            yield self

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Runner]:
        runner = Runner(self.app, patience=self._patience, access_log=None, handle_signals=False, shutdown_timeout=2)
        await runner.setup()
        try:
            yield runner
        finally:
            await runner.cleanup()


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """What the dispatcher says, in our shape."""
    if isinstance(error, web.HTTPMethodNotAllowed) and request.method == "OPTIONS":
        allowed = ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))
        return web.Response(status=204, headers={"Allow": allowed})
    code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status, "http")
    headers = {k: v for k, v in error.headers.items() if k in {"Allow", "Location"}}
    hint = {"hint": "GET /docs lists the routes"} if error.status == 404 else {}
    sentence = f"{request.method} {request.path}: {error.reason}"
    return answer({"error": sentence, "code": code, **hint}, status=error.status, headers=headers)


def must_be_connected(trouble: Callable[[], str | None]) -> Check:
    """A health check of the broker connection: ``trouble`` answers why it does not stand."""

    async def check() -> None:
        reason = trouble()
        if reason:
            raise UnavailableError(reason)

    return check
