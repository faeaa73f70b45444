"""HTTP: a table of routes becomes an aiohttp application with one error shape, ``/health``, ``/metrics`` and OpenAPI."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ValidationError

from swashplate import __version__, logging, openapi, ports
from swashplate.access import Access
from swashplate.errors import (
    InvalidRequestError,
    SwashplateError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    from_validation,
)

log = logging.get("http")

MIB = 1 << 20
LARGE_BODY = MIB // 4
Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Check = Callable[[], Awaitable[None]]
"""Raises ``SwashplateError`` saying what is down."""


@dataclass(frozen=True)
class Route:
    """One operation: what it takes, what it answers, and how it can fail."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    query: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    example: Any = None
    open: bool = False
    """Needs no token of the service: its handler demands a proof of its own."""


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; a model is written without its absent fields."""
    if isinstance(content, BaseModel):
        text = content.model_dump_json(exclude_none=True)
    else:
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text + "\n", status=status, content_type="application/json", headers=headers)


def refusal(error: SwashplateError) -> web.Response:
    return answer(error.as_json(), status=error.status)


async def read_text(request: web.Request) -> str:
    """The JSON body as text. A content type is demanded so that a web page cannot post here without asking first."""
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise InvalidRequestError(
            "the body must be JSON in UTF-8",
            code="unsupported_content_type",
            hint="send Content-Type: application/json",
        )
    try:
        return (await request.read()).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"body is not UTF-8: {error}", code="malformed_json") from error


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """Parse and check the body; the error names the first wrong field."""
    text = await read_text(request)
    try:
        if len(text) > LARGE_BODY:  # beside the event loop, which has others to answer
            return await asyncio.to_thread(model.model_validate_json, text)
        return model.model_validate_json(text)
    except ValidationError as error:
        raise from_validation(error) from error


def query_int(request: web.Request, name: str, default: int, *, low: int = 0, high: int = 1 << 62) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError as error:
        raise InvalidRequestError(f"query parameter {name} must be a whole number, got {text!r}") from error
    if not low <= value <= high:
        raise InvalidRequestError(f"query parameter {name} must be between {low} and {high}, got {value}")
    return value


def query_seconds(request: web.Request, name: str, *, high: float) -> float:
    """How long a caller is willing to wait; 0 when it does not say."""
    text = request.query.get(name, "0")
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidRequestError(f"query parameter {name} must be seconds, got {text!r}") from error
    if not 0 <= value <= high:
        raise InvalidRequestError(f"query parameter {name} must be between 0 and {high:g} seconds, got {text}")
    return value


class HttpService:
    """One HTTP service: its routes, health checks and counters."""

    def __init__(
        self,
        name: str,
        routes: Iterable[Route],
        *,
        checks: Mapping[str, Check] | None = None,
        health: Callable[[], dict[str, Any]] = lambda: {"status": "ok"},
        body_limit: int = 100 * MIB,
        access: Access | None = None,
    ) -> None:
        self.name = name
        self._access = access or Access()
        self._open: set[web.AbstractRoute] = set()
        self.registry = CollectorRegistry()
        self._routes = list(routes)
        self._checks = dict(checks or {})
        self._health_body = health
        self._count = Counter(
            f"{name}_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            f"{name}_http_request_seconds", "Time to answer, in seconds", ["method", "route"], registry=self.registry
        )
        self.app = web.Application(middlewares=[self._middleware], client_max_size=body_limit)
        self._body_limit = body_limit
        for route in (*self._routes, *self._own_routes()):
            added = self.app.router.add_route(route.method, route.path, route.handler)
            if route.open:
                self._open.add(added)
        self._document = openapi.document(name, __version__, self._routes, secured=bool(self._access.token))

    def _own_routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self._health, "Can this service do its work now?"),
            Route("GET", "/metrics", self._metrics, "Counters for Prometheus"),
            Route("GET", "/openapi.json", self._openapi, "This description"),
            Route("GET", "/docs", self._docs, "This description, for people"),
        ]

    async def _health(self, _: web.Request) -> web.Response:
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
            return answer({"status": "fail", "error": shown, "code": "unavailable", "down": down}, status=503)
        return answer(self._health_body())

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _openapi(self, _: web.Request) -> web.Response:
        return answer(self._document)

    async def _docs(self, _: web.Request) -> web.Response:
        return web.Response(text=openapi.page(self._document), content_type="text/html")

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "unknown"
        request_id = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = await self._guarded(request, handler)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
        self._count.labels(request.method, route, response.status).inc()
        self._seconds.labels(request.method, route).observe(time.perf_counter() - began)
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.match_info.route not in self._open:
                self._access.check(request.method, request.path, request.headers)
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
            return refusal(error)
        except web.HTTPRequestEntityTooLarge:
            return refusal(TooLargeError(f"the body is over the limit of {self._body_limit} bytes"))
        except web.HTTPException as error:
            code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status, "http")
            headers = {k: v for k, v in error.headers.items() if k in {"Allow", "Location"}}
            sentence = f"{request.method} {request.path}: {error.reason}"
            return answer({"error": sentence, "code": code}, status=error.status, headers=headers)
        except (web.RequestPayloadError, HttpProcessingError) as error:
            reason = " ".join(str(error).split())
            return refusal(InvalidRequestError(f"the body cannot be read: {reason}", code="malformed_body"))
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("request handler failed", method=request.method, path=request.path)
            return refusal(SwashplateError("internal error", hint="the service's log has the details"))

    @asynccontextmanager
    async def serving(
        self, host: str, port: int, *, also: Iterable[int] = (), setting: str = ""
    ) -> AsyncIterator[HttpService]:
        """Serve until the context ends; ``also`` are further ports that are taken only when free.

        Raises ``ConfigurationError`` naming the port, its ``setting`` and, when it can be known, who holds it.
        """
        runner = web.AppRunner(self.app, access_log=None, handle_signals=False, shutdown_timeout=2)
        await runner.setup()
        try:
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
        finally:
            await runner.cleanup()


def must_be_connected(trouble: Callable[[], str | None]) -> Check:
    """A health check of the broker connection: ``trouble`` answers why it does not stand."""

    async def check() -> None:
        reason = trouble()
        if reason:
            raise UnavailableError(reason)

    return check
