"""Chunks of a binary to whoever waits for them: a plan that merges all requests, and the stream that follows it."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swashplate import logging
from swashplate.bus import Bus
from swashplate.errors import IntegrityError, InvalidRequestError
from swashplate.messages import digest_hex
from swashplate.topics import Topics

log = logging.get("proxy")

GATHER_SECONDS = 0.01
"""How long the first request for a binary waits for others: proplets of one round ask within milliseconds."""
REPEAT_SECONDS = 0.1
"""A chunk is not published again before this time has passed; who asks in between gets it together afterwards."""

LOGGED_EVERY = 16
"""One of so many chunks of a stream is logged for everybody."""


def chunk_count(size: int, chunk_size: int) -> int:
    return -(-size // chunk_size)


def check_indexes(indexes: Iterable[int], chunks: int) -> None:
    """Raises ``InvalidRequestError`` naming the first index that the binary does not have."""
    for index in indexes:
        if not 0 <= index < chunks:
            raise InvalidRequestError(
                f"field indexes: {index} is not between 0 and {chunks - 1}", code="invalid_chunk_index"
            )


@dataclass
class ChunkPlan:
    """Which chunk of one binary is published next, and when. Times are seconds of one clock that the caller reads.

    The first request waits ``gather`` for company; what is wanted once chunks go out is due at once; a chunk that was
    published less than ``repeat`` before is due when that has passed. Wanting what is already wanted changes nothing.
    """

    gather: float = GATHER_SECONDS
    repeat: float = REPEAT_SECONDS
    _begin: float = 0.0
    _queue: list[tuple[float, int]] = field(default_factory=list)
    _wanted: set[int] = field(default_factory=set)
    _published: dict[int, float] = field(default_factory=dict)

    def want(self, indexes: Iterable[int], now: float) -> None:
        if self.forgotten(now):
            self._begin = now + self.gather
        begin = max(now, self._begin)
        for index in indexes:
            if index in self._wanted:
                continue
            due = max(begin, self._published[index] + self.repeat) if index in self._published else begin
            self._wanted.add(index)
            heapq.heappush(self._queue, (due, index))

    def forgotten(self, now: float) -> bool:
        """True when nothing is wanted and nothing was published lately: a new plan would do the same."""
        if self._wanted:
            return False
        self._published = {i: at for i, at in self._published.items() if at + self.repeat > now}
        return not self._published

    @property
    def due(self) -> float | None:
        """When the next chunk may be published; ``None`` when nothing is wanted."""
        return self._queue[0][0] if self._queue else None

    def take(self, now: float) -> int:
        """The next index; from now on it counts as published. Raises ``ValueError`` before it is due."""
        if self.due is None or self.due > now:
            raise ValueError(f"no chunk is due at {now}")
        index = heapq.heappop(self._queue)[1]
        self._wanted.remove(index)
        self._published[index] = now
        return index


@dataclass(frozen=True)
class Sendable:
    """A binary that is on disk: its file, and how it is cut."""

    digest: str
    path: Path
    size: int
    chunk_size: int
    container: str
    """What people call it: the image's reference."""

    @property
    def chunks(self) -> int:
        return chunk_count(self.size, self.chunk_size)


class ChunkStreams:
    """One stream per binary that somebody waits for: one chunk after the other, as fast as the broker takes them, until
    nothing more is wanted.
    """

    def __init__(self, bus: Bus, topics: Topics, *, new_plan: Callable[[], ChunkPlan] = ChunkPlan) -> None:
        self._bus = bus
        self._topics = topics
        self._new_plan = new_plan
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._plans: dict[str, ChunkPlan] = {}
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._wanted_more = asyncio.Event()

    async def send(self, binary: Sendable, indexes: Iterable[int]) -> None:
        """Publish these chunks; returns when nobody waits for a chunk of this binary any more."""
        now = self._clock()
        self._plans = {d: plan for d, plan in self._plans.items() if d in self._streams or not plan.forgotten(now)}
        plan = self._plans.setdefault(binary.digest, self._new_plan())
        plan.want(indexes, now)
        self._wanted_more.set()  # wakes the streams that wait now
        self._wanted_more.clear()
        stream = self._streams.get(binary.digest)
        if stream is None or stream.done():
            stream = asyncio.get_running_loop().create_task(self._stream(binary, plan), name=f"chunks:{binary.digest}")
            self._streams[binary.digest] = stream
            stream.add_done_callback(lambda done: self._ended(binary.digest, done))
        await asyncio.shield(stream)

    async def _stream(self, binary: Sendable, plan: ChunkPlan) -> None:
        topic_of, hexadecimal, sent = self._topics.chunk, digest_hex(binary.digest), 0
        with binary.path.open("rb") as file:
            while (due := plan.due) is not None:
                if due > self._clock():
                    await self._wait_until(due)
                    continue
                index = plan.take(self._clock())
                content = await asyncio.to_thread(read_chunk, file.fileno(), binary, index)
                await self._bus.publish(topic_of(hexadecimal, index), content, qos=0)
                # Every chunk is a line for whoever debugs; people who look for life need the first and few more.
                (log.debug if sent % LOGGED_EVERY else log.info)(
                    "sent container chunk to MQTT stream",
                    index=index,
                    total_chunks=binary.chunks,
                    container=binary.container,
                )
                sent += 1
        log.info("successfully sent all chunks", container=binary.container, total_chunks=binary.chunks)

    async def _wait_until(self, due: float) -> None:
        """Until then, or until something else is wanted, which may be due before."""
        try:
            async with asyncio.timeout_at(due):
                await self._wanted_more.wait()
        except TimeoutError:
            return

    def _ended(self, digest: str, stream: asyncio.Task[None]) -> None:
        if self._streams.get(digest) is stream:
            del self._streams[digest]
        if stream.cancelled() or stream.exception() is not None:
            self._plans.pop(digest, None)

    async def close(self) -> None:
        for stream in list(self._streams.values()):
            stream.cancel()
        await asyncio.gather(*self._streams.values(), return_exceptions=True)


def read_chunk(handle: int, binary: Sendable, index: int) -> bytes:
    """Raises ``IntegrityError`` when the file is not as long as it was."""
    offset = index * binary.chunk_size
    content = os.pread(handle, binary.chunk_size, offset)
    if len(content) != min(binary.chunk_size, binary.size - offset):
        raise IntegrityError(f"the cached binary {binary.digest} was cut short on disk")
    return content
