"""Files that are there whole or not at all, and that stay."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and what it lies in, readable by the owner alone, durably."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True, mode=0o700)
        sync_folder(new.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step by a file of mode 0600; after a crash it is the old one or the new one, whole.

    A reader never sees a part of it. What a crash leaves over begins with ``.incoming-``.
    """
    handle, name = tempfile.mkstemp(prefix=".incoming-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)
