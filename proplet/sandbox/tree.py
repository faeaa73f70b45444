"""Folders that somebody else filled: measured and removed however deep they are, and read and written in.

Nothing here recurses, follows a link or builds a path that could be longer than the kernel takes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SMALLEST_FILE = 4096
LONGEST_PATH = 2048
"""Bytes of a path that is opened at once; the kernel takes 4096."""
PASSES = 3
"""A process that was killed just now may still end what it asked of the kernel."""
GONE = (FileNotFoundError, NotADirectoryError)
"""What was a folder when it was listed is none any more."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Folder:
    """An open folder, closed when the last one who needs it lets it go."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __del__(self) -> None:
        os.close(self.handle)


@dataclass(frozen=True)
class Measured:
    """``size`` in bytes on disk; ``entries`` are files, folders and whatever else has a name."""

    size: int
    entries: int


def measure(top: Path, most: int) -> Measured:
    """What is below ``top``; stops counting above ``most`` entries. An empty file or folder takes space too.

    Raises ``OSError`` when a part cannot be looked into, but not for what is removed or renamed meanwhile.
    """
    size = entries = 0
    pending: list[tuple[_Folder, str]] = []
    with contextlib.suppress(*GONE):
        pending.append((_Folder(os.open(top, _FOLDER)), "."))
    while pending:
        base, path = pending.pop()
        with contextlib.suppress(*GONE), _opened(path, base.handle) as handle, os.scandir(handle) as listed:
            if len(path.encode(errors="surrogateescape")) > LONGEST_PATH:
                base, path = _Folder(os.dup(handle)), "."
            for entry in listed:
                entries += 1
                if entries > most:
                    return Measured(size, entries)
                if entry.is_dir(follow_symlinks=False):
                    size += SMALLEST_FILE
                    pending.append((base, f"{path}/{entry.name}"))
                    continue
                with contextlib.suppress(FileNotFoundError):
                    size += max(entry.stat(follow_symlinks=False).st_blocks * 512, SMALLEST_FILE)
    return Measured(size, entries)


@contextlib.contextmanager
def reached(top: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The folder that ``name`` below ``top`` is in, open, and the last part of ``name``; ``make`` the folders that are missing.

    Raises ``OSError``.
    """
    *above, last = name.split("/")
    folder = os.open(top, _FOLDER)
    try:
        for part in above:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=folder)
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder, last
    finally:
        os.close(folder)


def created(folder: int, name: str) -> BinaryIO:
    """A new file, never one that is there. Raises ``OSError``."""
    return os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder), "wb")


def remove(top: Path) -> None:
    """Remove ``top`` and everything below it.

    Raises ``OSError`` for the first thing that cannot be removed, after everything else was.
    """
    for attempt in range(1, PASSES + 1):
        errors: list[OSError] = []
        try:
            with _opened(str(top)) as handle:
                _empty(handle, errors)
            os.rmdir(top)  # noqa: PTH106  # a Path's own raises and means the same
        except FileNotFoundError:
            return
        except OSError as error:
            errors.append(error)
        if not errors:
            return
        if attempt == PASSES:
            raise errors[0]


def _empty(top: int, errors: list[OSError]) -> None:
    """Take one folder of ``top`` after the other, its own folders first moved up to ``top``: no more than two deep."""
    unguessable = os.urandom(16).hex()
    pending = _unlink_files(top, errors)
    moved = 0
    while pending:
        name = pending.pop()
        try:
            with _opened(name, top) as handle:
                for inner in _unlink_files(handle, errors):
                    moved += 1
                    above = f"{unguessable}-{moved}"
                    with _kept(errors):
                        os.rename(inner, above, src_dir_fd=handle, dst_dir_fd=top)
                        pending.append(above)
            os.rmdir(name, dir_fd=top)
        except FileNotFoundError:
            continue
        except OSError as error:
            errors.append(error)


def _unlink_files(folder: int, errors: list[OSError]) -> list[str]:
    """The names of the folders that remain."""
    with os.scandir(folder) as listed:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed]
    for name, is_folder in found:
        if not is_folder:
            with _kept(errors):
                os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in found if is_folder]


@contextlib.contextmanager
def _opened(name: str, within: int | None = None) -> Iterator[int]:
    handle = os.open(name, _FOLDER, dir_fd=within)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _kept(errors: list[OSError]) -> Iterator[None]:
    """Go on after an error, which is kept; what is gone is no error."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        errors.append(error)
