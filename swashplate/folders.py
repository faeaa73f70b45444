"""State folders: each is one process's alone, as long as it lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from swashplate.errors import ConfigurationError


@contextlib.contextmanager
def state_folder(path: Path) -> Iterator[Path]:
    """The folder that this process alone may write; raises ``ConfigurationError`` when another process has it."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot use the state folder {path}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigurationError(
            f"the state folder {path} is in use by another process", hint="give each process its own"
        ) from error
    try:
        yield path
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Does a living process hold this state folder?"""
    try:
        handle = os.open(path / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
