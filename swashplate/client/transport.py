"""Requests to one manager: its errors as ours, and what may be sent again after an answer was lost is sent again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp

from swashplate.client.answers import Answer, BadAnswerError, Page
from swashplate.client.http import HttpClient, TokenRefusedError, UnreachableError, reason_of
from swashplate.errors import InvalidRequestError, SwashplateError, UnauthorizedError

A = TypeVar("A", bound=Answer)

AGAIN_S, AGAIN_MOST_S = 0.1, 1.0
Body = bytes | str | aiohttp.FormData


def path_of(*parts: str) -> str:
    """A path out of parts that may hold anything; an empty one would silently name another resource."""
    if not all(parts):
        raise InvalidRequestError("an id is empty")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def query_of(**fields: object) -> str:
    """``?a=1&b=2`` of what is given; None and empty text are not."""
    given = {name: str(value) for name, value in fields.items() if value is not None and value != ""}
    return "?" + urlencode(given) if given else ""


class Transport:
    """``retry_s`` is how long, in seconds, a manager that was there before may be away before a request gives up.

    A manager that was never reached is an error at once: the URL is probably wrong.
    """

    def __init__(self, http: HttpClient, url: str, *, retry_s: float) -> None:
        self.url = url.rstrip("/")
        self.retry_s = retry_s
        self._http = http
        self._met = False

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        make_body: Callable[[], Body] | None = None,
        headers: Mapping[str, str] | None = None,
        again: bool | None = None,
        timeout: float | None = None,
        quiet_s: float | None = None,
    ) -> Any:
        """The answer's JSON, None when it is empty. ``make_body`` is for a body that can be sent once only.

        ``again``: does it do no harm to do this twice? By default that of GET and PUT. ``quiet_s`` is how long nothing of the
        answer may come, while ``timeout`` is for all of it.
        """
        if again is None:
            again = method in {"GET", "PUT"}
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + self.retry_s, AGAIN_S
        while True:
            try:
                return await self._once(method, path, make_body() if make_body else body, headers, timeout, quiet_s)
            except UnreachableError as error:
                self._met = self._met or error.sent
                if (error.sent and not again) or not self._met or loop.time() + delay > deadline:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, AGAIN_MOST_S)

    async def _once(
        self,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None,
        timeout: float | None,
        quiet_s: float | None,
    ) -> Any:
        if body is not None and not isinstance(body, bytes | str | aiohttp.FormData):
            body = json.dumps(body)
        try:
            _, content = await self._http.request(
                method, self.url + path, body=body, headers=headers, timeout=timeout, quiet_s=quiet_s
            )
        except UnreachableError as error:
            reason = reason_of(error.__cause__) if error.__cause__ else error.sentence
            raise UnreachableError(
                f"no answer from the manager at {self.url}: {reason}",
                sent=error.sent,
                hint="is it running there? swashplate up starts one",
            ) from error
        except TokenRefusedError as error:
            self._met = True
            raise UnauthorizedError(error.sentence, hint="set MANAGER_HTTP_TOKEN to the manager's token") from error
        except SwashplateError:
            self._met = True
            raise
        self._met = True
        try:
            return json.loads(content) if content.strip() else None
        except ValueError as error:
            raise BadAnswerError(
                f"{self.url}{path} does not answer JSON", hint="is the URL that of a manager?"
            ) from error

    async def get(self, kind: type[A], path: str, **options: Any) -> A:
        return kind.read(await self.call("GET", path, **options))

    async def post(self, kind: type[A], path: str, body: Any = None, **options: Any) -> A:
        return kind.read(await self.call("POST", path, body=body, **options) or {})

    async def page(self, kind: type[A], key: str, path: str, **query: Any) -> Page[A]:
        """One page of a list; ``key`` is the field of the answer that holds it."""
        document = await self.call("GET", path + query_of(**query))
        if not isinstance(document, dict) or not isinstance(document.get(key) or [], list):
            raise BadAnswerError(f"{self.url}{path} does not answer a list", hint="is the URL that of a manager?")
        items = [kind.read(item) for item in document.get(key) or []]
        return Page(document.get("offset", 0), document.get("limit", 0), document.get("total", 0), items, document)


async def every(page: Callable[[int], Awaitable[Page[A]]], identity: Callable[[A], object]) -> AsyncIterator[A]:
    """Everything on all pages from ``page(offset)``, each once: what is created meanwhile moves the rest along."""
    seen: set[object] = set()
    offset = 0
    while True:
        found = await page(offset)
        for item in found.items:
            if identity(item) not in seen:
                seen.add(identity(item))
                yield item
        offset += len(found.items)
        if not found.items or offset >= found.total:
            return
