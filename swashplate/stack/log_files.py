"""The log files of a stack, read as they are: merged by time, or followed while they grow and are rotated."""

from __future__ import annotations

import heapq
import os
import re
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from swashplate.stack.rotation import parts

LOOK_EVERY_S = 0.2
_OURS = re.compile(r'^\{"time": ?"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)')
_NATS = re.compile(r"^\[\d+\] (\d{4}/\d\d/\d\d) (\d\d:\d\d:\d\d\.\d+)")
_MOSQUITTO = re.compile(r"^(\d{9,}): ")


def files(folder: Path) -> dict[str, Path]:
    """Service name → its log file."""
    return {path.stem: path for path in sorted(folder.glob("*.log"))}


def time_of(line: str) -> str:
    """When a line was written, in a form that sorts; empty for a line that does not say."""
    if found := _OURS.match(line):
        return found[1]
    if found := _NATS.match(line):  # in local time
        return _utc(datetime.strptime(f"{found[1]} {found[2]}", "%Y/%m/%d %H:%M:%S.%f").astimezone())
    if found := _MOSQUITTO.match(line):
        return _utc(datetime.fromtimestamp(int(found[1]), UTC))
    return ""


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()


def merged(texts: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """(service, line) of all, oldest first. A line that does not say its time stays behind the one before it."""

    def timed(service: str, lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        latest = ""
        for line in lines:
            latest = max(latest, time_of(line))
            yield latest, service, line

    by_time = heapq.merge(*(timed(service, lines) for service, lines in texts.items()), key=lambda item: item[0])
    return ((service, line) for _, service, line in by_time)


class Follower:
    """One growing log. A file that was replaced or cut is read from its beginning; only whole lines are given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def history(self, tail: int | None) -> Iterable[str]:
        """What is there now, of the files before this one too, or its last ``tail`` lines; ``fresh`` goes on behind it."""
        return self._all() if tail is None else deque(self._all(), maxlen=tail)

    def skip(self) -> None:
        """Leave out what is there now."""
        with suppress(FileNotFoundError):
            self._file = file = self._path.open("rb")
            file.seek(0, os.SEEK_END)

    def _all(self) -> Iterator[str]:
        found: dict[int, IO[bytes]] = {}
        for path in parts(self._path):  # one that is rotated meanwhile is met twice
            with suppress(FileNotFoundError):
                file: IO[bytes] = path.open("rb")
                if found.setdefault(os.fstat(file.fileno()).st_ino, file) is not file:
                    file.close()
        for file in reversed(found.values()):
            if self._file is not None:
                self._file.close()
            self._file = file
            yield from self._read()
        yield from self.fresh()

    def fresh(self) -> Iterator[str]:
        """The lines that were added since the last look."""
        yield from self._read()
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return
        if self._file is not None:
            mine = os.fstat(self._file.fileno())
            if (mine.st_ino, mine.st_dev) == (now.st_ino, now.st_dev) and now.st_size >= self._file.tell():
                return
            yield from self._read()  # what was written to it since we looked
            self._file.close()
        self._rest = b""
        self._file = self._path.open("rb")
        yield from self._read()

    def _read(self) -> Iterator[str]:
        if self._file is None:
            return
        for line in self._file:
            if not line.endswith(b"\n"):
                self._rest += line
                continue
            yield (self._rest + line)[:-1].decode(errors="replace")
            self._rest = b""


def follow(choose: Callable[[], Mapping[str, Path]], tail: int | None, write: Callable[[str, str], None]) -> None:
    """Give ``write`` every line, those to come too, until nobody reads our output any more.

    ``choose`` names the files anew at every look, because services come and go.
    """
    followers = {name: Follower(path) for name, path in choose().items()}
    for service, line in merged({name: follower.history(tail) for name, follower in followers.items()}):
        write(service, line)
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)  # an error or a hang-up is told in any case
    while True:
        sys.stdout.flush()
        if reader.poll(LOOK_EVERY_S * 1000):
            return
        for name, path in choose().items():
            followers.setdefault(name, Follower(path))
        for service, line in merged({name: follower.fresh() for name, follower in followers.items()}):
            write(service, line)
