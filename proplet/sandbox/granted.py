"""The file systems of the directories that a run may write to: what it leaves there stays, so that no limit of one run protects
them, and a run ends when little is left of them, whoever took it.
"""

from __future__ import annotations

import contextlib
import math
import os

from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Job

RESERVE = 1 / 20
"""The part of a file system's bytes, and of its files, that is not for guests."""
MOST_BYTES, MOST_FILES = 1 << 30, 10_000
"""No more is reserved, however large it is."""


def room(job: Job) -> float:
    """Bytes that its guest may still write there, infinite without such a directory. Raises ``GuestError`` when it may not."""
    least = math.inf
    for here, path, write in job.directories:
        if write:
            with contextlib.suppress(OSError):  # it has vanished: the guest will find out
                least = min(least, _room(os.statvfs(here), path))
    return least


def _room(there: os.statvfs_result, path: str) -> float:
    kept = min(there.f_blocks * RESERVE, MOST_BYTES / there.f_frsize)
    left = (there.f_bavail - kept) * there.f_frsize
    if left < 0 or there.f_favail < min(there.f_files * RESERVE, MOST_FILES):
        free = f"{there.f_bavail * there.f_frsize} bytes and {there.f_favail} files are free"
        raise GuestError(
            f"the file system of the directory {path} is nearly full, {free}", "directory_full", reusable=False
        )
    return left
