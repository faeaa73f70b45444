"""Binaries on disk, named by their digest: what was used longest ago goes first when there are too many."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.single_flight import SingleFlight
from swashplate import logging
from swashplate.blobs import BlobStore

log = logging.get("proxy")

Fetch = Callable[[BlobStore], Awaitable[None]]
"""Put one blob into the store, verified, or raise."""


class BlobCache:
    """At most ``limit`` bytes, but never less than what is in use now."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.store = BlobStore(folder)
        self._limit = limit
        self._flights: SingleFlight[None] = SingleFlight()
        self._held: Counter[str] = Counter()
        self._verified: set[str] = set()

    @asynccontextmanager
    async def holding(self, digest: str, source: str, fetch: Fetch) -> AsyncIterator[Path]:
        """The blob's file, which stays until the context ends. Fetched at most once at a time from one ``source``."""
        self._held[digest] += 1
        try:
            if not await self._has(digest):
                # One source that fails must not fail those who named another.
                await self._flights.do((digest, source), lambda: fetch(self.store))
                self._verified.add(digest)
                self._evict()
            path = self.store.path(digest)
            os.utime(path)
            yield path
        finally:
            self._held[digest] -= 1
            if not self._held[digest]:
                del self._held[digest]

    async def _has(self, digest: str) -> bool:
        """Is it here, and unaltered? A file is read once after a start: what a disk broke is fetched again."""
        if not self.store.has(digest):
            return False
        if digest not in self._verified:
            if await asyncio.to_thread(_digest_of, self.store.path(digest)) != digest:
                log.warning("a cached binary was altered on disk, fetching it again", digest=digest)
                self.store.remove(digest)
                return False
            self._verified.add(digest)
        return True

    def _evict(self) -> None:
        files = [(path, path.stat()) for path in map(self.store.path, self.store.digests())]
        total = sum(state.st_size for _, state in files)
        for path, state in sorted(files, key=lambda entry: entry[1].st_mtime_ns):
            digest = f"sha256:{path.name}"
            if total <= self._limit:
                return
            if digest not in self._held:
                self.store.remove(digest)
                self._verified.discard(digest)
                total -= state.st_size
                log.info("dropped a binary from the cache", digest=digest, size=state.st_size)

    async def close(self) -> None:
        await self._flights.close()


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
