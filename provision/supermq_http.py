"""One HTTP request to one of SuperMQ's services, with the standard library alone, and what can go wrong in words."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from swashplate.errors import (
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    SwashplateError,
    UnauthorizedError,
    UnavailableError,
)

ANSWER_WITHIN_S = 15.0

_PAUSE_S = 0.5
_WORD_EVERY_S = 5.0
_MAX_ANSWER = 16 * 1024 * 1024
_AGAIN = "run it again when the cause is gone: it continues where it stopped"


@dataclass(frozen=True)
class Address:
    """Where one service is; ``path`` precedes every route."""

    service: str
    url: str
    tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, service: str, url: str) -> Address:
        """Raises ``ConfigurationError`` for what is no http or https URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"the URL of the {service} service, {url!r}, is wrong: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(
                f"the URL of the {service} service must be http://HOST:PORT or https://HOST:PORT, not {url!r}"
            )
        plain = url.isascii() and url.isprintable() and " " not in url
        if parts.username is not None or parts.query or parts.fragment or not plain:
            raise ConfigurationError(
                f"the URL of the {service} service must not contain a user, a query, spaces or letters beyond ASCII",
                hint="user and password have options of their own",
            )
        tls = parts.scheme == "https"
        return cls(service, url, tls, parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"))

    def __str__(self) -> str:
        return f"the {self.service} service ({self.url})"


def wait_for(address: Address, seconds: float, say: Callable[[str], None]) -> None:
    """Return when the service answers; raise ``UnavailableError`` when it has not within ``seconds``."""
    started = said = time.monotonic()
    while True:
        left = started + seconds - time.monotonic()
        try:
            status, _, _ = _send(address, "GET", "/health", None, {}, within=max(0.1, min(left, 5.0)))
        except UnavailableError as error:
            reason, hint = error.sentence, error.hint
        else:
            if status in {200, 404}:  # an older one has no such route
                return
            reason, hint = f"{address} answers /health with {status}", None
        left = started + seconds - time.monotonic()
        if left <= 0:
            raise UnavailableError(
                f"{address} is not there after {seconds:g} s: {reason}",
                hint=hint
                or "is it started? `docker compose ps`, or `swashplate status`; else give --users-url and the like",
            )
        if said == started or time.monotonic() - said >= _WORD_EVERY_S:
            said = time.monotonic()
            say(f"waiting for {address}, {left:.0f} s at most: {reason}")
        time.sleep(min(_PAUSE_S, left))


def exchange(address: Address, method: str, path: str, body: object, *, token: str) -> tuple[int, Any]:
    """One request; the status and what the JSON of the answer says, None when it is empty."""
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        content = json.dumps(body).encode()
    status, kind, text = _send(address, method, path, content, headers, within=ANSWER_WITHIN_S)
    request = f"{method} {path.partition('?')[0]}"
    if 300 <= status < 400:
        raise ConfigurationError(
            f"{address} answers {request} with a redirection ({status})",
            hint="give the URL it leads to: neither password nor token is sent after it",
        )
    if status >= 500:
        raise UnavailableError(f"{address} failed at {request}: {status}{_said(text)}", hint=_AGAIN)
    try:
        return status, json.loads(text) if text.strip() else None
    except (ValueError, RecursionError) as error:
        shown = printable(kind) or "no content type"
        raise ConfigurationError(
            f"{address} answers {request} with {status} and something that is not JSON ({shown})",
            hint=f"does another program listen on port {address.port}?",
        ) from error


def checked(address: Address, request: str, status: int, answer: Any, good: Iterable[int]) -> dict[str, Any]:
    if status in good:
        if answer is None:
            return {}
        if not isinstance(answer, dict):
            raise unexpected(address, request, "it is no JSON object")
        return answer
    said = _said(json.dumps(answer).encode())
    if status == 401:
        raise UnauthorizedError(
            f"{address} does not accept the token of the users service{said}",
            hint="do the four URLs belong to one SuperMQ?",
        )
    if status == 403:
        raise ForbiddenError(
            f"{address} does not allow {request}{said}", hint="take a user that administrates the domain: --user"
        )
    if status == 404:
        raise ConfigurationError(
            f"{address} does not know {request}{said}", hint=f"does another program listen on port {address.port}?"
        )
    kind = ConflictError if status == 409 else ConfigurationError
    raise kind(f"{address} answers {request} with {status}{said}")


def unexpected(address: Address, request: str, reason: str) -> SwashplateError:
    return ConfigurationError(
        f"{address} answers {request} with something else than expected: {reason}",
        hint=f"does another program listen on port {address.port}?",
    )


def _said(text: bytes) -> str:
    """The reason that a service gives, fit to be shown."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    parts = [found[name] for name in ("message", "error") if isinstance(found.get(name), str) and found[name]]
    return f": {printable(': '.join(parts))}" if parts else ""


def printable(text: str) -> str:
    """What a service says, fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _send(
    address: Address, method: str, path: str, content: bytes | None, headers: Mapping[str, str], *, within: float
) -> tuple[int, str, bytes]:
    """Status, content type and body.

    Raises ``UnavailableError`` for what may pass, and ``ConfigurationError`` when it is the wrong place.
    """
    started = time.monotonic()
    connection: http.client.HTTPConnection | None = None
    try:
        if address.tls:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(address.host, address.port, timeout=within, context=context)
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=within)
        connection.request(method, address.path + path, body=content, headers=dict(headers))
        answer = connection.getresponse()
        declared, body = answer.length, b""
        # Older Pythons would wait for more than was declared.
        while (declared is None or len(body) < declared) and (block := answer.read1(65536)):
            body += block
            if len(body) > _MAX_ANSWER:
                raise ConfigurationError(f"{address} answers with more than {_MAX_ANSWER} bytes")
            if time.monotonic() - started > within:
                raise socket.timeout  # noqa: UP041  # before Python 3.10 it is not a TimeoutError
        if declared is not None and len(body) < declared:
            raise http.client.IncompleteRead(body, declared - len(body))
        return answer.status, answer.getheader("Content-Type", ""), body
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # UnicodeError: a host that cannot be one
        raise _trouble(address, f"{method} {path.partition('?')[0]}", error, within) from error
    finally:
        if connection is not None:
            connection.close()


def _trouble(address: Address, request: str, error: Exception, within: float) -> SwashplateError:
    another = f"does another program listen on port {address.port}?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"the certificate of {address} is not trusted: {error.verify_message}",
            hint="set SSL_CERT_FILE to a file with the certificate of the authority that signed it",
        )
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, http.client.IncompleteRead)):
        # http.client.RemoteDisconnected is a ConnectionResetError.
        return UnavailableError(f"{address} closed the connection instead of answering {request}", hint=_AGAIN)
    if isinstance(error, ssl.SSLError):
        return ConfigurationError(
            f"{address} does not speak TLS as we do ({error.reason})", hint="is its URL http:// rather than https://?"
        )
    if isinstance(error, http.client.HTTPException):
        return ConfigurationError(f"{address} does not speak HTTP", hint=another)
    if isinstance(error, (TimeoutError, socket.timeout)):
        return UnavailableError(f"{address} did not answer {request} within {within:.3g} s", hint=_AGAIN)
    if isinstance(error, socket.gaierror):
        return UnavailableError(f"there is no host {address.host!r} where {address} should be")
    if isinstance(error, ConnectionRefusedError):
        return UnavailableError(f"nothing listens on port {address.port} of {address.host}")
    return UnavailableError(f"{address} cannot be reached: {error}")
