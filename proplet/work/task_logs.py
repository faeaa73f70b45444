"""What guests write to stderr, sent to the manager while they run: gathered, at a bounded rate, and nobody waits for it.

QoS 0, and held in memory alone: what is lost is a gap, which shows since each part says where it stands. A manager that
comes back is sent the last of it once more.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from collections import deque
from collections.abc import Callable

from proplet.work.outgoing import Ref
from swashplate.bus import Bus, BusError
from swashplate.messages import TaskLog
from swashplate.topics import Topics

GATHER_S = 0.2
MOST_IN_MESSAGE = 32 * 1024
RATE, BURST = 64 * 1024, 256 * 1024
"""Bytes of one attempt per second, and at once; as many may wait for the broker."""
RECENT = 64 * 1024
"""Bytes of one attempt that a manager may have missed while it was away."""
ENOUGH = 16 * 1024
"""After a flood so many must be allowed again before more is taken: fewer would be shreds."""


class LogStream:
    """The stderr of one attempt; of a latent task that of all its calls, in the order in which it comes."""

    __slots__ = ("_at", "_clock", "_left", "_logs", "_over", "_parts", "_sent", "end", "ref", "told")

    def __init__(self, ref: Ref, logs: TaskLogs, clock: Callable[[], float]) -> None:
        self.ref = ref
        self.end = 0
        """Bytes that the guest has written so far."""
        self.told = 0
        """How far the manager was told of it."""
        self._logs = logs
        self._clock = clock
        self._parts: list[tuple[int, bytearray]] = []
        """What waits to be sent, and how many bytes come before each."""
        self._sent: deque[tuple[int, bytes]] = deque()
        self._left, self._at, self._over = float(BURST), clock(), False

    def feed(self, content: bytes) -> None:
        kept = content[: self._allowed(len(content))]
        if kept:
            if not self._parts or _end_of(*self._parts[-1]) != self.end:
                self._parts.append((self.end, bytearray()))
            self._parts[-1][1].extend(kept)
        self.end += len(content)
        self._logs.soon(self)

    def skip(self, count: int) -> None:
        """The guest wrote more, which never came here."""
        self.end += count

    def _allowed(self, count: int) -> int:
        now = self._clock()
        self._left, self._at = min(BURST, self._left + (now - self._at) * RATE), now
        waiting = sum(len(content) for _, content in self._parts)
        room = int(min(self._left, BURST - waiting))
        if self._over and room < ENOUGH:
            return 0
        self._over = room < count
        room = min(room, count)
        self._left -= room
        return room

    def taken(self, *, final: bool) -> list[TaskLog]:
        """What waits, as messages; a character of which a part is missing waits for it, unless this is ``final``."""
        parts, self._parts = self._parts, []
        found: list[TaskLog] = []
        for offset, content in parts:
            goes_on = not final and offset + len(content) == self.end
            at = 0
            while at < len(content):
                decoder = codecs.getincrementaldecoder("utf-8")("replace")
                last = at + MOST_IN_MESSAGE >= len(content)
                piece = bytes(content[at : at + MOST_IN_MESSAGE])
                text = decoder.decode(piece, final=last and not goes_on)
                size = len(piece) - (0 if last and not goes_on else len(decoder.getstate()[0]))
                if size == 0:
                    break
                found.append(self._message(offset + at, size, text))
                self._sent.append((offset + at, piece[:size]))
                at += size
            if at < len(content):
                self._parts.append((offset + at, content[at:]))
        while self._sent and self._sent[0][0] < self.told - RECENT:
            self._sent.popleft()
        if final and self.end > self.told:
            found.append(self._message(self.end, 0, ""))
        return found

    def _message(self, offset: int, size: int, text: str) -> TaskLog:
        self.told = offset + size
        return TaskLog(
            task_id=self.ref.task_id,
            attempt=self.ref.attempt,
            proplet_id=self._logs.proplet_id,
            offset=offset,
            size=size,
            text=text,
        )

    def again(self) -> None:
        """The last that was sent may not have arrived."""
        if self._sent:
            self._parts = [*((offset, bytearray(content)) for offset, content in self._sent), *self._parts]
            self._sent.clear()
            self._logs.soon(self)

    def flush(self) -> None:
        """A run has ended: the result that follows must find its log there."""
        if self.end > self.told:
            self._logs.send(self, final=True)


def _end_of(offset: int, content: bytearray) -> int:
    return offset + len(content)


class TaskLogs:
    """One timer for all streams. ``clock`` counts seconds."""

    def __init__(
        self, bus: Bus, topics: Topics, proplet_id: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.proplet_id = proplet_id
        self._bus = bus
        self._topic = topics.proplet(proplet_id, "logs")
        self._clock = clock
        self._streams: dict[Ref, LogStream] = {}
        self._due: set[LogStream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def of(self, ref: Ref) -> LogStream:
        """The stream of an attempt, or of the attempt that a call belongs to."""
        found = self._streams.get(ref.deployment)
        if found is None:
            found = self._streams[ref.deployment] = LogStream(ref.deployment, self, self._clock)
        return found

    def forget(self, ref: Ref) -> None:
        """The attempt has ended."""
        stream = self._streams.pop(ref, None)
        if stream is not None:
            self._due.discard(stream)

    def again(self) -> None:
        for stream in self._streams.values():
            stream.again()

    def soon(self, stream: LogStream) -> None:
        self._due.add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        due, self._due = self._due, set()
        for stream in due:
            if self._bus.connected:
                self.send(stream, final=False)
            else:
                self.soon(stream)

    def send(self, stream: LogStream, *, final: bool) -> None:
        for message in stream.taken(final=final):
            with contextlib.suppress(BusError):
                self._bus.post(self._topic, message.encode(), qos=0)
