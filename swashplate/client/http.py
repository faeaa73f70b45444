"""HTTP from one process to another: JSON in, JSON out, and the other side's errors as our own."""

from __future__ import annotations

import io
import json
import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from yarl import URL

from swashplate.errors import BY_STATUS, SwashplateError, UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    import aiohttp

LARGE_BODY_BYTES = 1 << 18


class TokenRefusedError(UnavailableError):
    """A service wants another token than ours. Whoever asked us cannot help it; once our operator has, it goes on."""

    default_code = "token_refused"


class UnreachableError(UnavailableError):
    """No answer came. ``sent`` says whether the other side may have got the request and done what it asks."""

    def __init__(self, sentence: str, *, sent: bool, hint: str | None = None) -> None:
        super().__init__(sentence, hint=hint)
        self.sent = sent


def error_of(status: int, text: str, url: str) -> SwashplateError:
    """The error that an answer carries, whether it speaks our shape or not."""
    kind = BY_STATUS.get(status, UnavailableError if status >= 500 else SwashplateError)
    try:
        body = json.loads(text)
        error = kind(str(body["error"]), code=str(body.get("code") or kind.default_code), hint=body.get("hint"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        error = kind(f"{url} answered {status}: {text.strip()[:200]}")
    if isinstance(error, UnauthorizedError):
        return TokenRefusedError(f"{url} refuses us: {error.sentence}", hint=error.hint)
    return error


def reason_of(error: BaseException) -> str:
    """Why a connection failed, without the addresses and the class names that libraries put around it."""
    import aiohttp  # noqa: PLC0415  # see HttpClient

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorSSLError | aiohttp.ClientConnectorDNSError):
        error = error.os_error
    if isinstance(error, ssl.SSLError):
        return getattr(error, "verify_message", "") or (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error) or type(error).__name__


def _sendable(body: bytes | str | None) -> io.BytesIO | bytes | None:
    """A large body is sent in pieces, so that the event loop turns in between."""
    content = body.encode() if isinstance(body, str) else body
    return io.BytesIO(content) if content is not None and len(content) > LARGE_BODY_BYTES else content


class HttpClient:
    """A pool of connections. A peer that does not answer is an ``UnavailableError`` naming its URL.

    aiohttp is imported with the first request: it is 7 MiB, which a process that asks nobody need not have.
    ``tokens``: base URL → the token of the service there, which nobody else is shown; not even where it redirects to.
    """

    def __init__(self, *, timeout: float = 30, tokens: Mapping[str, str] | None = None) -> None:
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._tokens: dict[URL, str] = {}
        for url, token in (tokens or {}).items():
            self.trust(url, token)

    def trust(self, url: str, token: str) -> None:
        """Show ``token`` to the service at the base URL ``url``; an empty URL or token changes nothing."""
        if url and token:
            self._tokens[URL(url.rstrip("/"))] = token

    def _token(self, url: str) -> str | None:
        target = URL(url)
        for base, token in self._tokens.items():
            below = base.path in {"/", target.path} or target.path.startswith(base.path + "/")
            if below and base.origin() == target.origin():
                return token
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    def open(self, method: str, url: str, **options: Any) -> Any:
        """The request as aiohttp makes it, with the token that belongs to ``url``: for whoever streams."""
        token = self._token(url) if self._tokens else None
        if token:
            options["headers"] = {**(options.get("headers") or {}), "Authorization": f"Bearer {token}"}
            options["allow_redirects"] = False
        return self._opened().request(method, url, **options)

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415  # see HttpClient

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout, connect=5), connector=aiohttp.TCPConnector(limit=100)
            )
        return self._session

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | str | aiohttp.FormData | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        quiet_s: float | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of a 2xx answer; anything else is raised. ``timeout`` is for all of it, ``quiet_s`` for each pause."""
        import aiohttp  # noqa: PLC0415  # see HttpClient

        sent = dict(headers or {})
        if isinstance(body, bytes | str):
            sent.setdefault("Content-Type", "application/json")
        try:
            async with self.open(
                method,
                url,
                data=body if isinstance(body, aiohttp.FormData) else _sendable(body),
                headers=sent,
                timeout=aiohttp.ClientTimeout(total=timeout or self._timeout, connect=5, sock_read=quiet_s),
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            raise UnreachableError(f"{method} {url} failed: {reason_of(error)}", sent=not refused) from error
        if response.status >= 300:
            raise error_of(response.status, content.decode(errors="replace"), url)
        return response.status, content

    async def get_json(self, url: str, *, timeout: float | None = None) -> Any:
        _, content = await self.request("GET", url, timeout=timeout)
        return json.loads(content)

    async def post_json(
        self, url: str, body: Any, *, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Any:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        _, content = await self.request("POST", url, body=text, headers=headers, timeout=timeout)
        return json.loads(content)
