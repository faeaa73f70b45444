"""Where a running task keeps its files: ``in/``, ``out/`` and its stdout, in memory when the machine allows it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swashplate.errors import SwashplateError, TooLargeError

LOCK = ".lock"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # the machine's tmpfs, used through a folder that only we may enter


def choose_root(configured: Path | None, state: Path, proplet_id: str) -> Path:
    """The folder for this proplet's running tasks; the state folder's path tells apart two proplets of one name."""
    if configured is not None:
        return configured
    owned = SHARED_MEMORY / f"swashplate-{os.getuid()}"
    try:
        owned.mkdir(mode=0o700, exist_ok=True)
        found = owned.lstat()
    except OSError:
        return state / "tasks"
    # Somebody else may have made it first.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return state / "tasks"
    sweep(owned)
    return owned / f"{proplet_id}-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]}"


def _held(folder: Path, *, create: bool = False) -> int | None:
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


def sweep(owned: Path) -> None:
    """Give back the memory of proplets that were killed and never came back."""
    for folder in owned.iterdir():
        handle = _held(folder)
        if handle is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


class TaskFolders:
    """``root`` belongs to this process alone and is emptied when it starts."""

    def __init__(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True, mode=0o700)
        self.root = root
        self._lock = _held(root, create=True)

    def fresh(self) -> TaskFolder:
        return TaskFolder(Path(tempfile.mkdtemp(prefix="task-", dir=self.root)))

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


class TaskFolder:
    """The files of one run. The guest may write below ``out`` whatever it likes: nothing there is followed or trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in (path / "in", path / "out"):
            folder.mkdir(mode=0o700)

    def describe(self, task: dict[str, Any]) -> None:
        (self.path / "in" / "task.json").write_text(json.dumps(task))

    def give(self, name: str, file: Path) -> None:
        """Let the guest read ``file`` as ``/in/{name}``."""
        target = self.path / "in" / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            target.hardlink_to(file)
        except OSError:  # another file system
            shutil.copyfile(file, target)

    def given(self, name: str) -> str:
        """The text of ``/in/{name}``."""
        return (self.path / "in" / name).read_text("utf-8")

    def stdout(self, limit: int) -> bytes:
        return _read(self.path / "stdout", limit) or b""

    def result_file(self, limit: int) -> bytes | None:
        """``/out/result.json``, None when there is none."""
        return _read(self.path / "out" / "result.json", limit)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor of a regular file, never of what a link points to; None when there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise SwashplateError(f"{path.name} cannot be read: {error.strerror}", code="result_invalid") from error
    try:
        yield handle
    finally:
        os.close(handle)


def _read(path: Path, limit: int) -> bytes | None:
    """Raises ``TooLargeError`` with code ``result_too_large``."""
    with _opened(path) as handle:
        if handle is None:
            return None
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise SwashplateError(f"{path.name} is not a file", code="result_invalid")
        if found.st_size > limit:
            raise TooLargeError(f"{path.name} has {found.st_size} bytes, the limit is {limit}", code="result_too_large")
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(limit)
