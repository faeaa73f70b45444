"""Chunks as Propeller's proplets take them: in base64 on one topic that all of them read, asked for by image reference.

Their protocol has no error reply and no request for a missing chunk: what goes wrong is logged, and a proplet that asks
while chunks are on their way gets all of them once more afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from proxy.chunks import GATHER_SECONDS, Sendable, read_chunk
from swashplate import logging
from swashplate.bus import Bus, Received
from swashplate.errors import SwashplateError
from swashplate.messages.legacy import LegacyChunk, LegacyWanted
from swashplate.service import Tasks
from swashplate.topics import SHARED_QOS, Topics

log = logging.get("proxy")

Hold = Callable[[str], AbstractAsyncContextManager[Sendable]]
"""The verified binary of an image reference, on disk until the context ends; raises ``SwashplateError``."""

STREAMS_AT_ONCE = 50


class LegacyChunks:
    """One stream per image at a time."""

    def __init__(self, bus: Bus, topics: Topics, hold: Hold) -> None:
        self._bus = bus
        self._topics = topics
        self._hold = hold
        self._wanted: dict[str, bool] = {}
        """Images on their way, and whether somebody asked since their first chunk."""
        self._tasks = Tasks(log)

    async def open(self) -> None:
        """Declare the subscription; call before the bus connects."""
        await self._bus.subscribe(self._topics.shared_blob_request, self._asked)

    async def close(self) -> None:
        await self._tasks.close()

    async def _asked(self, message: Received) -> None:
        image = LegacyWanted.decode(message.payload).app_name
        log.info("Received container request", app_name=image, legacy=True)
        if image in self._wanted:
            self._wanted[image] = True
        elif len(self._wanted) >= STREAMS_AT_ONCE:
            log.error("failed to fetch container", container=image, error="too many images are asked for at once")
        else:
            self._wanted[image] = True
            self._tasks.start(self._serve(image), f"legacy chunks of {image}")

    async def _serve(self, image: str) -> None:
        try:
            async with self._hold(image) as binary:
                while self._wanted[image]:
                    await asyncio.sleep(GATHER_SECONDS)  # proplets of one round ask within milliseconds
                    self._wanted[image] = False
                    await self._send(image, binary)
        except SwashplateError as error:
            log.error(
                "failed to fetch container", container=image, error=error.sentence, code=error.code, hint=error.hint
            )
        finally:
            del self._wanted[image]

    async def _send(self, image: str, binary: Sendable) -> None:
        log.info("successfully fetched container, sending chunks", container=image, digest=binary.digest)
        with binary.path.open("rb") as file:
            for index in range(binary.chunks):
                content = await asyncio.to_thread(read_chunk, file.fileno(), binary, index)
                chunk = LegacyChunk.of(content, app_name=image, chunk_idx=index, total_chunks=binary.chunks)
                await self._bus.publish(self._topics.shared_chunks, chunk.encode(), qos=SHARED_QOS)
                log.info(
                    "sent container chunk to MQTT stream", index=index, total_chunks=binary.chunks, container=image
                )
        log.info("successfully sent all chunks", container=image, total_chunks=binary.chunks)
