"""Tokens of the one administrator: signed, with an end, and void when the service is started again."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from aiohttp import web

from swashplate.errors import UnauthorizedError
from swashplate.http import Handler


class Tokens:
    """``clock`` gives seconds since the epoch."""

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl_s
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def issue(self) -> dict[str, str]:
        return {
            "access_token": self._sign("access", self._ttl),
            "refresh_token": self._sign("refresh", 24 * self._ttl),
            "access_type": "Bearer",
        }

    def check(self, request: web.Request, kind: str = "access") -> None:
        """Raises ``UnauthorizedError`` unless the request bears a token of that kind that has not ended."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token or not token.isascii():
            raise UnauthorizedError(
                "this needs a token", hint="Authorization: Bearer TOKEN; POST /users/tokens/issue at the users' port"
            )
        said, _, _ = token.rpartition(".")
        if not hmac.compare_digest(token.encode(), self._signed(said).encode()) or not said.startswith(f"{kind}."):
            raise UnauthorizedError("the token is not one of this service", code="invalid_token")
        if int(said.split(".")[1]) <= self._clock() * 1000:
            raise UnauthorizedError("the token has expired", code="expired_token")

    def required(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self.check(request)
            return await handler(request)

        return guarded

    def _sign(self, kind: str, ttl_s: float) -> str:
        return self._signed(f"{kind}.{int((self._clock() + ttl_s) * 1000)}.{secrets.token_hex(8)}")

    def _signed(self, said: str) -> str:
        return f"{said}.{hmac.new(self._key, said.encode(), hashlib.sha256).hexdigest()}"
