"""Where a running task keeps its files: ``in/``, ``out/`` and its stdout, in memory when the machine allows it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from proplet.sandbox import tree
from proplet.sandbox.claim import LOCK, alone_in, held
from swashplate import logging
from swashplate.errors import ConfigurationError, SwashplateError, TooLargeError, UnavailableError

log = logging.get("task_folder")

KEPT_CLEAN = 64
PIECE = 1 << 20
_removing = threading.Lock()
"""The end of a proplet removes the folder around one that a thread still removes; neither may move what the other lists."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # the machine's tmpfs, used through a folder that only we may enter


def _common() -> Path:
    """The folder of all our proplets' folders, in memory."""
    return SHARED_MEMORY / f"swashplate-{os.getuid()}"


def _only_ours(folder: Path) -> bool:
    """Make ``folder`` unless it is there; False when somebody else made it first, or may enter it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def choose_root(configured: Path | None, state: Path, proplet_id: str, room: int = 0) -> Path:
    """The folder for this proplet's running tasks; the state folder's path tells apart two proplets of one name.

    ``room`` are the bytes that tasks may fill; less than that in memory is worth a word: a container has 64 MiB unless told.
    """
    if configured is not None:
        return configured
    common = _common()
    if not _only_ours(common):
        return state / "tasks"
    sweep(common)
    there = os.statvfs(common)
    if there.f_blocks * there.f_frsize < room:
        log.warning(
            "tasks may write more than there is room for; one that does leaves none to the others",
            folder=str(SHARED_MEMORY),
            bytes=there.f_blocks * there.f_frsize,
            wanted=room,
            hint="give the container a larger --shm-size, lower PROPLET_OUTPUT_LIMIT or PROPLET_INPUT_CACHE_BYTES, or set"
            " PROPLET_TASK_DIR",
        )
    return common / f"{proplet_id}-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]}"


def _removed(folder: Path) -> None:
    """What cannot be removed is left and logged: a proplet starts and stops all the same."""
    try:
        with _removing:
            tree.remove(folder)
    except OSError as error:
        log.warning("a folder cannot be removed", folder=str(folder), error=str(error))


def sweep(common: Path) -> None:
    """Give back the memory of proplets that were killed and never came back."""
    with contextlib.suppress(FileNotFoundError), alone_in(common):
        for folder in common.iterdir():
            handle = held(folder)
            if handle is not None:
                _removed(folder)
                os.close(handle)


def _nothing() -> None:
    return None


class TaskFolders:
    """``root`` belongs to this process alone; it is emptied at the start, and made again should it vanish.

    Raises ``ConfigurationError`` when another process has it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.on_remade: Callable[[], None] = _nothing
        """Called when it had vanished and is there again, as another folder of the same name."""
        self._lock = -1
        self._clean: list[TaskFolder] = []
        self._make()

    def fresh(self) -> TaskFolder:
        """Raises ``UnavailableError`` with code ``task_folder``."""
        try:
            try:
                path = tempfile.mkdtemp(prefix="task-", dir=self.root)
            except FileNotFoundError:  # whoever tidies /dev/shm at the end of a login takes folders of the living too
                log.warning("the folder of the tasks has vanished, making it again", folder=str(self.root))
                self._clean.clear()
                self._make()
                self.on_remade()
                path = tempfile.mkdtemp(prefix="task-", dir=self.root)
            return TaskFolder(Path(path))
        except (OSError, ConfigurationError) as error:
            raise UnavailableError(f"no folder for the task: {error}", code="task_folder") from error

    @contextlib.contextmanager
    def lent(self) -> Iterator[TaskFolder]:
        """A folder for one run; removed after it, or used again when the run left no trace. Raises as ``fresh`` does."""
        folder = self._clean.pop() if self._clean and self.root.exists() else self.fresh()
        untouched = False
        try:
            yield folder
            untouched = folder.wipe()
        finally:
            if untouched and len(self._clean) < KEPT_CLEAN:
                self._clean.append(folder)
            else:  # a worker that was killed may still be writing there, and a guest may have made many files
                asyncio.get_running_loop().run_in_executor(None, folder.remove).add_done_callback(_log_failure)

    def close(self) -> None:
        common = self.root.parent if self.root.parent == _common() else None
        with contextlib.suppress(FileNotFoundError), alone_in(self.root.parent):
            _removed(self.root)
            if common is not None:
                with contextlib.suppress(OSError):  # other proplets are in it
                    common.rmdir()
        os.close(self._lock)

    def _make(self) -> None:
        try:
            self._take()
        except FileNotFoundError:  # the last of our other proplets ended, and removed the folder above just now
            self._take()

    def _take(self) -> None:
        above = self.root.parent
        if above != _common():
            above.mkdir(parents=True, exist_ok=True)
        elif not _only_ours(above):
            raise ConfigurationError(f"{above} belongs to somebody else, or others may enter it")
        with alone_in(above):
            self.root.mkdir(mode=0o700, exist_ok=True)
            lock = held(self.root, create=True)
            if lock is None:
                raise ConfigurationError(
                    f"{self.root} is in use by another process, or cannot be written", hint="set PROPLET_TASK_DIR"
                )
            for leftover in self.root.iterdir():
                if leftover.is_dir() and not leftover.is_symlink():
                    _removed(leftover)
                elif leftover.name != LOCK:
                    leftover.unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock


class TaskFolder:
    """The files of one run. The guest may write below ``out`` whatever it likes, and one that broke out of the runtime may put
    a link in the place of anything: nothing here is followed or trusted, as we may read and write where it may not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reusable = True
        """Not when its process ended with the run: it may still write for a moment after it has told us."""
        self._in, self._out, self._stdout = f"{path}/in", f"{path}/out", f"{path}/stdout"  # as text: for every run
        for folder in (self._in, self._out):
            os.mkdir(folder, 0o700)  # noqa: PTH102

    def describe(self, task: dict[str, Any]) -> None:
        self.write("task.json", json.dumps(task).encode())

    def write(self, name: str, content: bytes) -> None:
        """Raises ``UnavailableError`` with code ``task_folder``."""
        with _room_for(name), tree.reached(self.path, f"in/{name}") as (folder, last):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=folder)
            with tree.created(folder, last) as file:
                file.write(content)

    def give(self, name: str, file: Path) -> None:
        """Let the guest read ``file`` as ``/in/{name}``. Raises ``UnavailableError`` with code ``task_folder``."""
        with _room_for(name), tree.reached(self.path, f"in/{name}", make=True) as (folder, last):
            try:
                os.link(file, last, dst_dir_fd=folder)
            except OSError:  # another file system
                with file.open("rb") as source, tree.created(folder, last) as target:
                    shutil.copyfileobj(source, target, PIECE)

    def size_of(self, name: str) -> int:
        """Bytes of ``/in/{name}``."""
        with tree.reached(self.path, f"in/{name}") as (folder, last):
            return os.stat(last, dir_fd=folder, follow_symlinks=False).st_size

    def given(self, name: str) -> str:
        """The text of ``/in/{name}``."""
        with tree.reached(self.path, f"in/{name}") as (folder, last):
            handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, encoding="utf-8") as file:
            return file.read()

    def stdout(self, limit: int, *, last: bool = False) -> bytes:
        """What the guest printed; ``last``: of more than ``limit`` bytes the last. Raises ``TooLargeError``."""
        return self._read("stdout", limit, last=last) or b""

    def result_file(self, limit: int) -> bytes | None:
        """``/out/result.json``, None when there is none."""
        return self._read("out/result.json", limit)

    def result_pieces(self) -> Iterator[bytes] | None:
        """``/out/result.json``, however large, a piece at a time; None when there is none."""
        name = "out/result.json"
        return self._pieces(name) if os.path.lexists(f"{self.path}/{name}") else None

    def stdout_pieces(self) -> Iterator[bytes]:
        return self._pieces("stdout")

    def wipe(self) -> bool:
        """Make it as good as new, when that takes no more than to forget what was printed; False when it takes more.

        It spares a short task the making and removing of its folders.
        """
        if not self.reusable:
            return False
        try:
            with os.scandir(self._out) as listed:
                if next(listed, None) is not None or os.listdir(self._in) not in ([], ["task.json"]):  # noqa: PTH208
                    return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._stdout)  # noqa: PTH108
        except OSError:
            return False
        return True

    def remove(self) -> None:
        _removed(self.path)

    def _open(self, name: str) -> BinaryIO | None:
        """A regular file; None when there is none."""
        last = name.rpartition("/")[2]
        try:
            with tree.reached(self.path, name) as (folder, _):
                handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SwashplateError(f"{last} cannot be read: {error.strerror}", code="result_invalid") from error
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
        raise SwashplateError(f"{last} is not a file", code="result_invalid")

    def _pieces(self, name: str) -> Iterator[bytes]:
        """Nothing of a file that is not there."""
        file = self._open(name)
        if file is not None:
            with file:
                while piece := file.read(PIECE):
                    yield piece

    def _read(self, name: str, limit: int, *, last: bool = False) -> bytes | None:
        """Raises ``TooLargeError`` with code ``result_too_large``."""
        file = self._open(name)
        if file is None:
            return None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size > limit and not last:
                said = f"{name.rpartition('/')[2]} has {size} bytes, the limit is {limit}"
                raise TooLargeError(said, code="result_too_large")
            if size > limit:
                file.seek(size - limit)
            return file.read(min(size, limit))


@contextlib.contextmanager
def _room_for(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"/in/{name} cannot be written: {error.strerror}", code="task_folder") from error


def _log_failure(removal: asyncio.Future[None]) -> None:
    if not removal.cancelled() and (error := removal.exception()) is not None:
        log.error("the folder of a task was not removed", error=repr(error))
