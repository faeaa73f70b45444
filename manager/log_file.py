"""The log of one attempt on the disk: its beginning, and its end in two files that take turns; parts with where they stand.

Not synced: what a crash takes is a gap, which shows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES, TURN_BYTES = 256 * 1024, 384 * 1024
BEGINNING, BEFORE, NOW = "log", "log.before", "log.now"
_HEADER = struct.Struct(">QII")


class Part(NamedTuple):
    """``size`` bytes of the guest's, which ``offset`` came before; ``text`` in UTF-8 may differ where those were none."""

    offset: int
    size: int
    text: bytes

    @property
    def end(self) -> int:
        return self.offset + self.size


class Found(NamedTuple):
    """What stands from ``offset`` to ``end`` without a gap."""

    offset: int
    end: int
    text: bytes


def append(folder: Path, parts: Iterable[Part]) -> int:
    """The size of all of it, then."""
    for part in parts:
        path = folder / BEGINNING
        if _size(path) + len(part.text) > HEAD_BYTES or _size(folder / NOW):
            path = folder / NOW
            if _size(path) > TURN_BYTES:
                path.replace(folder / BEFORE)
        with path.open("ab") as file:
            file.write(_HEADER.pack(part.offset, part.size, len(part.text)) + part.text)
    return size(folder)


def size(folder: Path) -> int:
    return sum(_size(folder / name) for name in (BEGINNING, BEFORE, NOW))


def remove(folder: Path) -> None:
    for name in (BEGINNING, BEFORE, NOW):
        (folder / name).unlink(missing_ok=True)


def mend(folder: Path) -> None:
    """Cut off what a crash left half written."""
    for name in (BEGINNING, BEFORE, NOW):
        path = folder / name
        if path.exists():
            content = path.read_bytes()
            whole = sum(_HEADER.size + len(part.text) for part in _parts(content))
            if whole < len(content):
                with path.open("r+b") as file:
                    file.truncate(whole)


def read(folder: Path) -> Iterator[Part]:
    for name in (BEGINNING, BEFORE, NOW):
        path = folder / name
        if path.exists():
            yield from _parts(path.read_bytes())


def from_offset(parts: Iterable[Part], offset: int, most: int) -> Found:
    """The first of ``parts`` from ``offset`` on, and what follows without a gap, of about ``most`` bytes at most."""
    begin, end, length = offset, offset, 0
    texts: list[bytes] = []
    for part in parts:
        if part.end < end or (part.end == end and not texts):
            continue
        if not texts:
            begin, text = max(offset, part.offset), part.text[max(0, offset - part.offset) :]
        elif part.offset == end and length + len(part.text) <= most:
            text = part.text
        elif part.offset >= end:
            break
        else:
            continue
        end = part.end
        texts.append(text)
        length += len(text)
    return Found(begin, end, b"".join(texts))


def _parts(content: bytes) -> Iterator[Part]:
    at = 0
    while at + _HEADER.size <= len(content):
        offset, count, length = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        if at + length > len(content):
            return
        yield Part(offset, count, content[at : at + length])
        at += length


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
