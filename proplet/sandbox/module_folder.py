"""Compiled modules on disk. What is in them is machine code that runs unchecked, so a file is used only when it is ours.

A file is ``{binary's sha256}-{configuration}.cwasm``: what wasmtime made, what it exports as JSON, the length of that, and
a HMAC-SHA256 of all this together with the file's name, under a key that lies beside the folder. So a damaged file, a
file under another's name, one from another machine's cache and one that somebody put into the folder are all found out
and made again. Somebody who can read the key runs as this proplet's user and needs no file to do harm; against other users
stand the owner and mode of folder, key and files. A file is not synced: one torn by a power failure is a damaged one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import json
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from proplet.sandbox import tree

SUFFIX = ".cwasm"
INCOMING = ".incoming-"
KEY_BYTES = 32
LENGTH = struct.Struct(">I")
MAC_BYTES = 32
CHUNK_BYTES = 1 << 20
YOUNG_S = 10.0
"""A file used so lately is not dropped: whoever asked for it may be about to load it."""


class UnsafeFolderError(Exception):
    """Somebody else could write into the folder, and it is not ours to put right."""


@dataclass(frozen=True)
class Contents:
    """What a binary is; ``exports`` says of each whether it is a function, ``vectors`` are those with a v128."""

    component: bool
    exports: dict[str, bool]
    vectors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stored:
    """A file that was checked: ``code`` is a path that leads to it while it is open, ``size`` its bytes."""

    code: str
    size: int
    contents: Contents


class ModuleFolder:
    """``folder`` and its key are made when they are missing. Raises ``UnsafeFolderError``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UnsafeFolderError(f"{folder} must be a directory of the user that runs the proplet, and no link")
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
            self._clear()  # others could write while it was open
        path = folder.with_name(folder.name + ".key")
        self._key = _read_key(path) or self._new_key(path)

    def _new_key(self, path: Path) -> bytes:
        with self._alone():
            if (key := _read_key(path)) is not None:  # another process was faster
                return key
            key = os.urandom(KEY_BYTES)
            incoming = path.with_name(f"{INCOMING}{os.urandom(8).hex()}")
            try:
                _write_private(incoming, key)
                remove(path)
                incoming.replace(path)
            finally:
                incoming.unlink(missing_ok=True)
            return key

    def _path(self, digest: str, configuration: str) -> Path:
        return self._folder / _name(digest, configuration)

    def drop(self, digest: str, configuration: str) -> None:
        remove(self._path(digest, configuration))

    def touch(self, digest: str, configuration: str) -> None:
        """Used just now."""
        with contextlib.suppress(OSError):
            os.utime(self._path(digest, configuration))

    @contextlib.contextmanager
    def opened(self, digest: str, configuration: str) -> Iterator[Stored | None]:
        """The checked file, there meanwhile even if it is dropped; None when there is none."""
        name = _name(digest, configuration)
        path = f"{self._folder}/{name}"  # as text: a process of one run feels what a Path costs
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EACCES}:  # a link, another user's
                remove(Path(path))
            yield None
            return
        try:
            try:
                stored = self._checked(handle, name)
            except OSError:  # the disk cannot read what it has
                stored = None
            if stored is None:
                remove(Path(path))
            else:
                with contextlib.suppress(OSError):  # a disk that takes no writes any more can still be run from
                    os.utime(handle)
            yield stored
        finally:
            os.close(handle)

    def _checked(self, handle: int, name: str) -> Stored | None:
        found = os.fstat(handle)
        if not _ours(found) or found.st_size < MAC_BYTES + LENGTH.size:
            return None
        mac, end = self._mac(name), found.st_size - MAC_BYTES
        for at in range(0, end, CHUNK_BYTES):
            mac.update(os.pread(handle, min(CHUNK_BYTES, end - at), at))
        if not hmac.compare_digest(mac.digest(), os.pread(handle, MAC_BYTES, end)):
            return None
        end -= LENGTH.size
        (length,) = LENGTH.unpack(os.pread(handle, LENGTH.size, end))
        contents = Contents(**json.loads(os.pread(handle, length, end - length)))
        return Stored(f"/proc/self/fd/{handle}", found.st_size, contents)

    def _mac(self, name: str) -> hmac.HMAC:
        return hmac.new(self._key, name.encode() + b"\0", "sha256")

    def keep(self, digest: str, configuration: str, code: bytes | bytearray, contents: Contents, limit: int) -> None:
        """Store it and drop what was used longest ago until ``limit`` bytes hold; raises ``OSError``."""
        target = self._path(digest, configuration)
        described = json.dumps(asdict(contents)).encode()
        mac = self._mac(target.name)
        incoming = self._folder / f"{INCOMING}{os.urandom(8).hex()}"
        with self._alone():
            for leftover in self._folder.glob(f"{INCOMING}*"):  # of one who was killed while it was alone
                remove(leftover)
            try:
                parts = code, described, LENGTH.pack(len(described))
                for part in parts:
                    mac.update(part)
                _write_private(incoming, *parts, mac.digest())
                incoming.replace(target)
            finally:
                incoming.unlink(missing_ok=True)
            self._make_room(limit, target.name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The kernel lets go of it for one who is killed."""
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _make_room(self, limit: int, kept: str) -> None:
        found = [(entry.stat(follow_symlinks=False), entry.path, entry.name) for entry in os.scandir(self._folder)]
        total = sum(status.st_size for status, _, _ in found)
        young = time.time() - YOUNG_S
        for status, path, name in sorted(found, key=lambda each: each[0].st_mtime_ns):
            if total <= limit or status.st_mtime > young:
                return
            if name != kept:
                remove(Path(path))
                total -= status.st_size

    def _clear(self) -> None:
        for path in self._folder.iterdir():
            remove(path)


def _name(digest: str, configuration: str) -> str:
    return f"{digest.removeprefix('sha256:')}-{configuration}{SUFFIX}"


def remove(path: Path) -> None:
    """Whatever it is; what cannot be removed is not used either."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            tree.remove(path)
        else:
            path.unlink()


def _read_key(path: Path) -> bytes | None:
    """None when it is missing, and when others may have read or written it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        key = os.read(handle, KEY_BYTES + 1) if _ours(os.fstat(handle)) else b""
    finally:
        os.close(handle)
    return key if len(key) == KEY_BYTES else None


def _ours(found: os.stat_result) -> bool:
    """A plain file that no other user can read or write."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _write_private(path: Path, *parts: bytes | bytearray) -> None:
    """A new file that no other user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for part in parts:
            file.write(part)
