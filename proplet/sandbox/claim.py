"""Whose a folder of running tasks is: the lock of a living agent, and the end of what a dead one left."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from proplet.sandbox import tree

LOCK = ".lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Other proplets neither make, sweep nor remove anything of ``folder`` meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def held(folder: Path, *, create: bool = False) -> int | None:
    """The lock that says whose ``folder`` is, None when a living process has it or when it never had one."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def remove_left(folder: Path) -> None:
    """Remove ``folder`` unless a living process has it, such as the next life of the agent that left it.

    Raises ``OSError`` for the first thing that cannot be removed, after everything else was.
    """
    with contextlib.suppress(FileNotFoundError), alone_in(folder.parent):
        handle = held(folder)
        if handle is not None:
            try:
                tree.remove(folder)
            finally:
                os.close(handle)
