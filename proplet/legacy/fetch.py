"""Binaries from a proxy that knows no digests: asked for by image reference, assembled from base64 chunks by name."""

from __future__ import annotations

import asyncio

from proplet.supply.binaries import Binaries
from swashplate import logging
from swashplate.bus import Bus, Received
from swashplate.errors import IntegrityError, InvalidRequestError, TooLargeError, UnavailableError
from swashplate.messages.legacy import LegacyChunk, LegacyWanted
from swashplate.messages.tasks import WASM_MAGIC
from swashplate.service import Tasks
from swashplate.topics import SHARED_QOS, Topics

log = logging.get("fetch")

LIMIT_BYTES = 100 << 20
"""The pieces are in memory until the last one is there, and nothing says beforehand how many bytes they will be."""
ALL_WITHIN_S = 60.0
ASK_AGAIN_S = 10.0
"""A request while the chunks are on their way to somebody else may be dropped; the rest of those chunks is progress."""


class LegacyAssembly:
    """The chunks of one name. Which comes first does not matter, and a second copy changes nothing."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._pieces: dict[int, bytes] = {}
        self._bytes = 0
        self.total = 0

    @property
    def complete(self) -> bool:
        return self.total > 0 and len(self._pieces) == self.total

    def take(self, chunk: LegacyChunk) -> bool:
        """False when it is not news. Raises ``IntegrityError`` for a contradiction, ``TooLargeError``."""
        if self.total not in {0, chunk.total_chunks} or chunk.chunk_idx >= chunk.total_chunks:
            raise IntegrityError(
                f"{self._name}: chunk {chunk.chunk_idx} of {chunk.total_chunks} does not belong to the {self.total} before",
                code="chunks_contradict",
            )
        self.total = chunk.total_chunks
        if chunk.chunk_idx in self._pieces:
            return False
        content = chunk.content()
        self._bytes += len(content)
        if self._bytes > self._limit:
            raise TooLargeError(f"{self._name} has more than {self._limit} bytes", code="binary_too_large")
        self._pieces[chunk.chunk_idx] = content
        return True

    def content(self) -> bytes:
        return b"".join(self._pieces[index] for index in range(self.total))


class LegacyFetcher:
    """Fetches of one image by several tasks are one fetch."""

    def __init__(self, bus: Bus, topics: Topics, binaries: Binaries) -> None:
        self._bus = bus
        self._topics = topics
        self._binaries = binaries
        self._running: dict[str, asyncio.Task[str]] = {}
        self._waiting: dict[str, asyncio.Queue[LegacyChunk]] = {}
        self._subscribing = asyncio.Lock()
        self._subscribed = False
        self._tasks = Tasks(log)

    async def close(self) -> None:
        await self._tasks.close()

    async def fetch(self, image: str) -> str:
        """The digest of the binary, which is then here; nobody promised which it would be. Raises ``SwashplateError``."""
        running = self._running.get(image)
        if running is None:
            running = self._running[image] = asyncio.get_running_loop().create_task(self._fetch(image))
            running.add_done_callback(lambda ended: self._ended(image, ended))
        return await asyncio.shield(running)

    def _ended(self, image: str, ended: asyncio.Task[str]) -> None:
        self._running.pop(image, None)
        if not ended.cancelled():
            ended.exception()  # whoever still waits has it; nobody may be left

    async def _fetch(self, image: str) -> str:
        log.info("Requesting binary from registry: %s", image)
        assembly = LegacyAssembly(image, min(LIMIT_BYTES, self._binaries.limit))
        self._waiting[image] = asyncio.Queue()
        try:
            await self._listen()
            async with asyncio.timeout(ALL_WITHIN_S):
                await self._receive(image, assembly)
        except TimeoutError as error:
            raise UnavailableError(
                f"Timeout waiting for binary chunks of {image}",
                code="proxy_unreachable",
                hint="is the registry proxy running, and can it have that image? Its log says so",
            ) from error
        finally:
            del self._waiting[image]
            self._tasks.start(self._unlisten(), "unsubscribe from chunks")
        return await self._adopt(image, assembly)

    async def _receive(self, image: str, assembly: LegacyAssembly) -> None:
        while not assembly.complete:
            request = LegacyWanted(app_name=image)
            await self._bus.publish(self._topics.shared_blob_request, request.encode(), qos=SHARED_QOS)
            try:
                while not assembly.complete:
                    async with asyncio.timeout(ASK_AGAIN_S):
                        while not assembly.take(await self._waiting[image].get()):
                            pass
            except TimeoutError:
                log.info("no chunks lately, asking again", image=image)

    async def _adopt(self, image: str, assembly: LegacyAssembly) -> str:
        content = assembly.content()
        if not content.startswith(WASM_MAGIC):
            raise InvalidRequestError(f"{image} is not a WebAssembly binary", code="not_wasm")
        digest = await asyncio.to_thread(self._binaries.store.put, content)
        log.info(
            "Assembled binary for app '%s', size: %d bytes from %d chunks",
            image,
            len(content),
            assembly.total,
            digest=digest,
        )
        return digest

    async def _listen(self) -> None:
        async with self._subscribing:
            if not self._subscribed:
                await self._bus.subscribe(self._topics.shared_chunks, self._arrived, qos=SHARED_QOS)
                self._subscribed = True

    async def _unlisten(self) -> None:
        async with self._subscribing:
            if self._subscribed and not self._waiting:
                self._subscribed = False
                await self._bus.unsubscribe(self._topics.shared_chunks)

    async def _arrived(self, message: Received) -> None:
        chunk = LegacyChunk.decode(message.payload)
        waiting = self._waiting.get(chunk.app_name)
        if waiting is not None:
            waiting.put_nowait(chunk)
