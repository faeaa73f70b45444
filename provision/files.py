"""Files that hold keys: never readable by others, never half written, one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from swashplate.errors import ConfigurationError
from swashplate.files import sync_folder

PRIVATE = 0o600


def read_bytes(path: Path) -> bytes | None:
    """The content, or None when there is no such file; ``ConfigurationError`` when it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigurationError(f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error


def resolved(path: Path) -> Path:
    """The file that ``path`` names in the end, through symbolic links; it need not exist."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop is a RuntimeError before Python 3.13
        raise ConfigurationError(f"cannot follow the symbolic link {path}") from error


def tighten(path: Path) -> None:
    """Take every right but the owner's reading and writing away from an existing file; its times stay."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~PRIVATE:
            path.chmod(mode & PRIVATE)
    except OSError as error:
        raise ConfigurationError(f"cannot make {path} private: {error.strerror}") from error


def write_private(path: Path, content: bytes, *, owner: os.stat_result | None = None) -> None:
    """Replace ``path`` in one step by a file of mode 0600; after a crash it is the old one or the new one, whole.

    ``owner``: whose file it is to be, so that a run as root does not take a user's file away.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
    except OSError as error:
        raise ConfigurationError(f"cannot write in {path.parent}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise ``ConfigurationError`` when ``path`` cannot be replaced.

    A file that its owner may not write is refused too: replacing it would succeed, and is not what its mode asks for.
    """
    target = resolved(path)
    try:
        if target.exists() and not target.stat().st_mode & stat.S_IWUSR:
            raise ConfigurationError(f"{path} is read-only", hint=f"chmod u+w {path}")
        for directory in {target.parent, path.absolute().parent}:
            with tempfile.TemporaryFile(dir=directory):
                pass
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep other provisioning runs away from ``path`` meanwhile; the lock is on its directory and leaves no file.

    ``on_wait`` is called when another run has the lock, which may take its time.
    """
    directory = resolved(path).parent
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"cannot write in {directory}: {error.strerror}") from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks is no reason to fail
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
