"""Log files of bounded size, and the pipe through which the output of a process gets there."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

LARGEST = 10 * 1024 * 1024
KEPT = 5
"""``x.log`` and the four before it, ``x.log.1`` to ``x.log.4``: what compose.yaml has for a container."""
AT_ONCE = 1 << 16
PIPEFULS = 16
"""What a pipe holds, in bytes, and how often that is read at the end."""


def parts(path: Path) -> list[Path]:
    """Where the lines of a log may be, the newest first."""
    return [path, *(_earlier(path, n) for n in range(1, KEPT))]


def _earlier(path: Path, n: int) -> Path:
    return path.with_name(f"{path.name}.{n}")


def put_aside(path: Path) -> None:
    """What is there is ``x.old`` from now on, in place of what was put aside before."""
    for old, new in zip(parts(path), parts(path.with_suffix(".old")), strict=True):
        new.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            old.rename(new)


class RotatedLog:
    """Written by one process at a time. What cannot be written, on a full disk say, is lost: its writer goes on."""

    def __init__(self, path: Path, largest: int | None = None) -> None:
        self._path = path
        self._largest = LARGEST if largest is None else largest
        self._at_line = True
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        """A file ends with the end of a line, unless there is none for as long as a whole file."""
        if self._size + len(data) > self._largest:
            if not self._at_line:
                end = data.find(b"\n") + 1
                self._append(data[:end])
                data = data[end:]
            if data and (self._at_line or self._size >= 2 * self._largest):
                self._rotate()
        self._append(data)

    def _append(self, data: bytes) -> None:
        if data:
            self._at_line = data.endswith(b"\n")
            with suppress(OSError):
                self._size += os.write(self._file, data)

    def _rotate(self) -> None:
        with suppress(OSError):
            names = parts(self._path)
            for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
                with suppress(FileNotFoundError):
                    newer.rename(older)
        before = self._file
        with suppress(OSError):
            self._open()
            os.close(before)

    def close(self) -> None:
        os.close(self._file)


class Pump:
    """What is written to ``writing`` is put into ``log``; who started the process closes its own ``writing``."""

    def __init__(self, log: RotatedLog) -> None:
        self._log = log
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reading, self._pass_on)
        self._closed = False

    def _pass_on(self) -> bool:
        """False when there is nothing more for now."""
        try:
            data = os.read(self._reading, AT_ONCE)
        except BlockingIOError:
            return False
        if data:
            self._log.write(data)
        else:
            self._loop.remove_reader(self._reading)
        return bool(data)

    def close(self) -> None:
        """When its process has ended: all that it has written is in the pipe or in the log."""
        if self._closed:
            return
        for _ in range(PIPEFULS):  # not for ever: something that its process left behind may still write
            if not self._pass_on():
                break
        self._closed = True
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        self._log.close()
