"""What a guest says on stderr."""

from __future__ import annotations

from collections import deque

from proplet.sandbox.frames import Allowance
from proplet.work.outcome import LOGGED_CHARACTERS
from proplet.work.task_logs import LogStream
from swashplate import logging

log = logging.get("task")

LINE_COST = 100
"""Bytes of log that a line counts beside its text: a flood of short lines is a flood too."""
LAST_LINES = 5
TAIL_BYTES = 4096
LONGEST_LINE = 1 << 20
"""Bytes; of a longer one the rest is another line."""


class GuestLog:
    """A guest's stderr, line by line in the proplet's log, and its last lines for an error message; ``stream`` has it, too.

    ``limit`` is how many bytes of it are logged, as ``Allowance`` says.
    """

    def __init__(self, task_id: str, limit: int, stream: LogStream | None = None) -> None:
        self._task_id = task_id
        self._limit = limit
        self._stream = stream
        self._partial = bytearray()
        self._allowance = Allowance(limit)
        self._tail = bytearray()
        self.received = 0
        """Bytes."""
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, content: bytes) -> None:
        """What is next, of any size: a guest may write it byte by byte."""
        self.received += len(content)
        self._tail += content
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        if self._stream is not None:
            self._stream.feed(content)
        ending, *following = content.split(b"\n")
        self._partial += ending
        for line in following:
            self._end_line()
            self._partial += line
        if len(self._partial) > min(self._limit, LONGEST_LINE):  # a daemon may never end its line
            self._end_line()

    def wrote(self, count: float) -> None:
        """The run has ended, and this is how many bytes the guest wrote, of which the worker may not have handed over all."""
        if self._stream is not None and count > self.received:
            self._stream.skip(int(count) - self.received)

    def close(self) -> None:
        self._end_line()
        if self._stream is not None:
            self._stream.flush()

    def _end_line(self) -> None:
        self._line(bytes(self._partial))
        self._partial.clear()

    @property
    def tail(self) -> str:
        """The end of it, of at most ``TAIL_BYTES``."""
        return self._tail[-TAIL_BYTES:].decode(errors="replace")

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if not text or self._allowance.left() < 0:
            return
        if self._allowance.spend(len(line) + LINE_COST) < 0:
            log.warning("stderr of the task was cut", task_id=self._task_id, limit=self._limit)
            return
        self.last.append(text[:LOGGED_CHARACTERS])
        log.info(text, task_id=self._task_id, stream="stderr")
