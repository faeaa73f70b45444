"""Uploaded binaries: files named by their digest, kept as long as a task has them, or is about to have them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial

from manager.state import store
from manager.state.ledger import Ledger
from swashplate import logging
from swashplate.blobs import BlobStore, BlobWriter, sha256_digest
from swashplate.database import Database
from swashplate.errors import InvalidRequestError, SwashplateError
from swashplate.messages.tasks import wasm_of

log = logging.get("binaries")

SMALL = 1 << 16
"""Characters of base64 up to which a file is looked at in the event loop: a thread would cost more."""


class Binaries:
    def __init__(self, database: Database, ledger: Ledger, blobs: BlobStore) -> None:
        self._database = database
        self._ledger = ledger
        self._blobs = blobs
        self._in_use: Counter[str] = Counter()
        """Digests of files whose tasks are not durable yet."""

    async def keep(self, text: str) -> tuple[str, int]:
        """Store a file that came as base64; its digest and size. It stays until it was released, whatever else is deleted.

        Raises ``InvalidRequestError``.
        """
        content, digest = await examined(text)
        self._in_use[digest] += 1
        try:
            if len(text) > SMALL or not self._blobs.holds(content):
                await asyncio.to_thread(self._blobs.put, content)
        except BaseException:
            self._in_use[digest] -= 1
            raise
        return digest, len(content)

    async def keep_written(self, content: BlobWriter) -> str:
        """As ``keep`` does, of a file that was received already."""
        digest = content.digest
        self._in_use[digest] += 1
        try:
            await asyncio.to_thread(content.commit)
        except BaseException:
            self._in_use[digest] -= 1
            raise
        return digest

    def release(self, digests: Iterable[str]) -> None:
        """What was kept is some durable task's by now, or may go."""
        self._in_use.subtract(digests)
        self._in_use = +self._in_use

    async def remove_unused(self, digests: Iterable[str]) -> None:
        """Remove the files that no task has, nor is about to have; they stay when the database cannot tell."""
        for digest in set(digests) - {""}:
            try:
                used = await self._database.run(partial(store.is_used, digest=digest))
            except SwashplateError as error:
                log.warning("a file stays that nobody may need", digest=digest, error=error.sentence)
                return
            coming = self._in_use[digest] or any(task.digest == digest for task in self._ledger.unwritten_tasks())
            if not used and not coming:
                self._blobs.remove(digest)

    async def collect(self, wanted: Iterable[str]) -> None:
        """Remove what a process that was killed had stored for a task that never became durable.

        Call before anybody can upload. ``wanted`` are digests of what tasks need besides their binaries.
        """
        there = await asyncio.to_thread(self._blobs.digests)
        used = await self._database.run(partial(store.used_among, digests=there))
        unused = set(there) - used - set(wanted)
        for digest in unused:
            self._blobs.remove(digest)
        if unused:
            log.info("removed files that no task has", files=len(unused))


async def examined(text: str) -> tuple[bytes, str]:
    """The file that came as base64, and its digest. Raises ``InvalidRequestError`` for what is not a WASM binary."""
    return _examined(text) if len(text) <= SMALL else await asyncio.to_thread(_examined, text)


def _examined(text: str) -> tuple[bytes, str]:
    try:
        content = wasm_of(text)
    except ValueError as error:
        raise InvalidRequestError(f"body: field file: {error}", code="not_wasm") from error
    return content, sha256_digest(content)
