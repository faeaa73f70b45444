"""One blob from an HTTP server into a blob store: streamed, bounded, resumed when it breaks, and verified."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from swashplate import logging
from swashplate.blobs import BlobStore, BlobWriter
from swashplate.errors import IntegrityError, SwashplateError, TooLargeError, UnavailableError
from swashplate.words import counted

log = logging.get("proxy")

Argument = TypeVar("Argument")

BUFFER_BYTES = 1 << 20

Source = Callable[[dict[str, str]], AbstractAsyncContextManager[aiohttp.ClientResponse]]
"""Ask for the blob with these further headers; yields a 200 or 206, or raises what the answer means."""

BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True)
class Limits:
    max_bytes: int
    attempts: int = 4
    """How often one transfer is begun or resumed."""
    backoff: float = 0.2
    """Seconds before the first resumption; doubled each time."""


async def buffered(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Pieces of about ``BUFFER_BYTES``, so that few writes are handed to a thread."""
    pieces: list[bytes] = []
    held = 0
    broken: Exception | None = None
    try:
        async for piece in stream.iter_any():
            pieces.append(piece)
            held += len(piece)
            if held >= BUFFER_BYTES:
                whole, pieces, held = b"".join(pieces), [], 0
                yield whole
    except BROKEN as error:
        broken = error
    if pieces:
        yield b"".join(pieces)  # also what arrived before a break: it need not be sent again
    if broken is not None:
        raise broken


async def _to_disk(work: Callable[[Argument], object], argument: Argument) -> None:
    """In a thread. A full disk is not a broken transfer: it is said, not tried again."""
    try:
        await asyncio.to_thread(work, argument)
    except OSError as error:
        raise SwashplateError(f"cannot write the binary to disk: {error.strerror}", code="disk_unwritable") from error


class Transfer:
    """Brings the blob ``digest`` into ``store``; ``size`` is what the manifest announced, when there is one."""

    def __init__(
        self, source: Source, digest: str, size: int | None, store: BlobStore, limits: Limits, *, what: str
    ) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._store = store
        self._limits = limits
        self._what = what

    async def run(self) -> None:
        """Raises ``TooLargeError``, ``UnavailableError`` when the transfer keeps breaking, and ``IntegrityError``, which is
        final, when wrong bytes arrived twice. Unless the blob is whole and right, the store is unchanged.
        """
        self._refuse_over_limit(self._size or 0)
        try:
            return await self._once()
        except IntegrityError as error:
            log.warning("fetching again: wrong content", container=self._what, error=error.sentence)
        try:
            await self._once()
        except IntegrityError as error:
            raise IntegrityError(f"{self._what}: {error.sentence}", retryable=False) from error

    async def _once(self) -> None:
        with ExitStack() as files:
            writer = files.enter_context(self._store.writer())
            for attempt in itertools.count(1):
                try:
                    async with self._source({"Range": f"bytes={writer.size}-"} if writer.size else {}) as response:
                        if writer.size and response.status != 206:
                            writer = files.enter_context(self._store.writer())
                        await self._receive(response, writer)
                    break
                except (*BROKEN, UnavailableError) as error:
                    if self._size is not None and writer.size == self._size:
                        break
                    if isinstance(error, UnavailableError) and not writer.size:
                        raise
                    if attempt >= self._limits.attempts:
                        raise self._gave_up(attempt, writer, error) from error
                    log.info("transfer broke, resuming", container=self._what, received=writer.size, reason=str(error))
                await asyncio.sleep(self._limits.backoff * 2 ** (attempt - 1))
            if self._size is not None and writer.size != self._size:
                raise IntegrityError(f"{writer.size} of {self._size} bytes arrived")
            await _to_disk(writer.commit, self._digest)

    async def _receive(self, response: aiohttp.ClientResponse, writer: BlobWriter) -> None:
        async for piece in buffered(response.content):
            await _to_disk(writer.write, piece)
            if self._size is not None and writer.size > self._size:
                raise IntegrityError(f"more than the announced {self._size} bytes arrived")
            self._refuse_over_limit(writer.size)

    def _refuse_over_limit(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise TooLargeError(
                f"{self._what}: the binary is over the limit of {self._limits.max_bytes} bytes",
                code="binary_too_large",
                hint="PROXY_MAX_BINARY_BYTES raises it",
            )

    def _gave_up(self, attempts: int, writer: BlobWriter, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"{self._what}: the transfer broke {counted(attempts, 'time')}, last after {writer.size} bytes:"
            f" {error or type(error).__name__}",
            code="registry_unreachable",
        )
