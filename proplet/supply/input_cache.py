"""Models and datasets kept between tasks as files, so that a task's ``/in`` is filled by hard links.

What is immutable is fetched once; anything else is asked for again each time, and sent again only when it changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pydantic_core import from_json

from swashplate import logging
from swashplate.client import HttpClient, error_of
from swashplate.errors import InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    import aiohttp

log = logging.get("inputs")

SMALL_BYTES = 4 << 20
"""Up to here the JSON is checked in full, and given to the guest in its environment too."""
AGAIN_S, AGAIN_MOST_S = 0.1, 2.0
"""Pauses between tries when the server does not answer: the first, and what it doubles up to."""
MOST_FILES = 64
PIECE = 1 << 18
CONNECT_S, READ_S = 5, 30
"""How long a large dataset takes as a whole is bounded by the task's own deadline."""


@dataclass(frozen=True)
class Kept:
    """``rows`` is how many samples a dataset has, None when it is no dataset or too large to be looked into."""

    path: Path
    size: int
    etag: str
    rows: int | None

    @property
    def small(self) -> bool:
        return self.size <= SMALL_BYTES


class InputCache:
    """Files in ``folder``, at most ``limit`` bytes together. They may vanish: then they are fetched again."""

    def __init__(self, http: HttpClient, folder: Path, limit: int) -> None:
        self._http = http
        self._folder = folder
        self._limit = limit
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Each lives as long as somebody holds it or waits for it."""
        self.fetched_bytes = 0

    async def get(self, url: str, *, immutable: bool = False, patience: float = 0.0) -> Kept:
        """What ``url`` serves now; the file may be dropped at the caller's next await, so link it before.

        Raises ``UnavailableError`` when it does not answer for ``patience`` seconds, ``InvalidRequestError`` when that is
        no JSON object, and what the server's own refusal means.
        """
        until = (
            asyncio.get_running_loop().time() + patience
        )  # from now on: whoever waited for the lock has waited for the server
        lock = self._locks.setdefault(url, asyncio.Lock())
        async with lock:
            kept = self._kept.get(url)
            if kept is None or not immutable:
                kept = await self._persistently(url, kept, until)
            if not kept.path.exists():  # "not changed" was said about what has been dropped meanwhile
                kept = await self._persistently(url, None, until)
            self._keep(url, kept)
            return kept

    async def _persistently(self, url: str, known: Kept | None, until: float) -> Kept:
        pause = AGAIN_S
        while True:
            try:
                return await self._fetch(url, known)
            except UnavailableError as error:
                if asyncio.get_running_loop().time() + pause > until:
                    raise
                log.warning("no answer, trying again", url=url, error=error.sentence)
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN_MOST_S)

    async def _fetch(self, url: str, known: Kept | None) -> Kept:
        import aiohttp  # noqa: PLC0415  # see HttpClient

        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=READ_S)
        headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        try:
            async with self._http.open("GET", url, headers=headers, timeout=timeout) as response:
                if response.status == 304 and known is not None:
                    return known
                if response.status >= 300:
                    raise error_of(response.status, (await response.read()).decode(errors="replace"), url)
                return await self._receive(url, response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnavailableError(f"GET {url} failed: {error or type(error).__name__}") from error

    async def _receive(self, url: str, response: aiohttp.ClientResponse) -> Kept:
        self._folder.mkdir(exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=".incoming-", dir=self._folder)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                size = 0
                async for piece in response.content.iter_chunked(PIECE):
                    file.write(piece)
                    size += len(piece)
            self.fetched_bytes += size
            if size <= SMALL_BYTES:
                rows = _rows(from_json_object(url, path.read_bytes()))
            else:
                told = response.headers.get("X-Dataset-Rows", "")
                rows = int(told) if told.isdigit() else None
            # A new name for every version: whoever linked the previous one keeps it.
            target = self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}-{path.name[-8:]}"
            path.replace(target)
            return Kept(target, size, response.headers.get("ETag", ""), rows)
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, url: str, kept: Kept) -> None:
        previous = self._kept.get(url)
        if previous is not None and previous.path != kept.path:
            previous.path.unlink(missing_ok=True)
        self._kept[url] = kept
        self._kept.move_to_end(url)
        while len(self._kept) > 1 and self._over_limit():
            _, dropped = self._kept.popitem(last=False)
            dropped.path.unlink(missing_ok=True)

    def _over_limit(self) -> bool:
        return len(self._kept) > MOST_FILES or self.size > self._limit

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(kept.size for kept in self._kept.values())


def from_json_object(url: str, content: bytes) -> dict[str, Any]:
    """Raises ``InvalidRequestError`` with code ``not_json``."""
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestError(f"{url} did not answer JSON: {error}", code="not_json") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{url} did not answer a JSON object", code="not_json")
    return value


def _rows(value: dict[str, Any]) -> int | None:
    data = value.get("data")
    return len(data) if isinstance(data, list) else None
