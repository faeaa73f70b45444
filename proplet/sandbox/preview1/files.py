"""Files as every machine shows them: in one order, without its inodes, devices and times.

wasmtime's functions find their arguments in the memory of the instance that calls them. So a small instance of our own
stands between: its functions call wasmtime's with its own memory, and what they leave there is put right on the way to the
guest. Both instances are in one store, which has the table of descriptors.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import struct
from functools import lru_cache
from typing import Any

import wasmtime

from proplet.sandbox.preview1.clock import START_NS
from proplet.sandbox.preview1.errno import NAMETOOLONG, SUCCESS
from proplet.sandbox.preview1.memory import GuestMemory, u32

PATH, STAT, WORD, LISTING = 0, 0x10000, 0x10100, 0x20000
"""Where in the memory between: a path, a file's status, a number, and entries of a directory; each may take 64 KiB."""
ROOM = 0x10000
DIRECTORY = 3
FIRST_PREOPENED = 3

STATUS = struct.Struct("<QQB7xQQQQQ")
ENTRY = struct.Struct("<QQIB3x")

BETWEEN = """(module
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 3 3)
  (func (export "fd_filestat_get") (param i32 i32) (result i32)
    (call $fd_filestat_get (local.get 0) (local.get 1)))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32)
    (call $path_filestat_get (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32)
    (call $fd_readdir (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "fd_renumber") (param i32 i32) (result i32)
    (call $fd_renumber (local.get 0) (local.get 1)))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)
    (call $path_open (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
      (local.get 5) (local.get 6) (local.get 7) (local.get 8))))"""


@lru_cache(maxsize=4)
def _between(engine: wasmtime.Engine) -> wasmtime.Module:
    return wasmtime.Module(engine, BETWEEN)


class PlainFiles:
    """``preopened`` are the guest's directories, in the order of their descriptors.

    A file's number is made from its path, so that a program which compares them finds a file equal to itself alone.
    """

    def __init__(self, store: wasmtime.Store, linker: wasmtime.Linker, preopened: list[str]) -> None:
        self._exports = linker.instantiate(store, _between(store.engine)).exports(store)
        memory = self._exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self._memory = memory
        self._paths = dict(enumerate(preopened, FIRST_PREOPENED))
        self._listings: dict[int, list[tuple[int, int, bytes]]] = {}

    def fd_filestat_get(self, caller: wasmtime.Caller, fd: int, at: int) -> int:
        errno = self._call(caller, "fd_filestat_get", fd, STAT)
        return errno or self._give_status(caller, self._path(fd), at)

    def path_filestat_get(self, caller: wasmtime.Caller, fd: int, flags: int, path: int, length: int, at: int) -> int:
        name = self._take_path(caller, path, length)
        if name is None:
            return NAMETOOLONG
        errno = self._call(caller, "path_filestat_get", fd, flags, PATH, len(name), STAT)
        return errno or self._give_status(caller, self._path(fd, name), at)

    def path_open(
        self,
        caller: wasmtime.Caller,
        fd: int,
        lookup: int,
        path: int,
        length: int,
        how: int,
        rights: int,
        inheriting: int,
        flags: int,
        at: int,
    ) -> int:
        name = self._take_path(caller, path, length)
        if name is None:
            return NAMETOOLONG
        errno = self._call(caller, "path_open", fd, lookup, PATH, len(name), how, rights, inheriting, flags, WORD)
        if errno == SUCCESS:
            opened = int.from_bytes(self._memory.read(caller, WORD, WORD + 4), "little")
            self._paths[opened] = self._path(fd, name)
            self._listings.pop(opened, None)
            GuestMemory(caller).write_int(u32(at), opened, 4)
        return errno

    def fd_renumber(self, caller: wasmtime.Caller, fd: int, to: int) -> int:
        errno = self._call(caller, "fd_renumber", fd, to)
        if errno == SUCCESS:
            self._paths[u32(to)] = self._path(fd)
            self._listings.pop(u32(to), None)
        return errno

    def fd_readdir(self, caller: wasmtime.Caller, fd: int, at: int, room: int, after: int, used: int) -> int:
        """``.`` and ``..``, then the others in the order of their names' bytes; read anew from the first on."""
        if after == 0 or u32(fd) not in self._listings:
            errno = self._list(caller, fd)
            if errno:
                return errno
        filled, room = bytearray(), u32(room)
        listing = self._listings[u32(fd)]
        for cookie in range(after & ((1 << 64) - 1), len(listing)):
            number, kind, name = listing[cookie]
            filled += ENTRY.pack(cookie + 1, number, len(name), kind) + name
            if len(filled) >= room:
                break
        memory = GuestMemory(caller)
        memory.write(u32(at), bytes(filled[:room]))
        memory.write_int(u32(used), min(len(filled), room), 4)
        return SUCCESS

    def _list(self, caller: wasmtime.Caller, fd: int) -> int:
        entries: list[tuple[int, bytes]] = []
        cookie, more = 0, True
        while more:
            errno = self._call(caller, "fd_readdir", fd, LISTING, ROOM, cookie, WORD)
            if errno:
                return errno
            used = int.from_bytes(self._memory.read(caller, WORD, WORD + 4), "little")
            content, at, more = bytes(self._memory.read(caller, LISTING, LISTING + used)), 0, used == ROOM
            while at + ENTRY.size <= used:
                following, _, length, kind = ENTRY.unpack_from(content, at)
                name = content[at + ENTRY.size : at + ENTRY.size + length]
                if len(name) < length:
                    break
                entries.append((kind, name))
                cookie, at = following, at + ENTRY.size + length
        entries.sort(key=lambda entry: (entry[1] not in {b".", b".."}, entry[1]))
        self._listings[u32(fd)] = [(_number(self._path(fd, name)), kind, name) for kind, name in entries]
        return SUCCESS

    def _call(self, caller: wasmtime.Caller, name: str, *arguments: int) -> int:
        function = self._exports[name]
        assert isinstance(function, wasmtime.Func)
        errno: Any = function(caller, *arguments)
        return int(errno)

    def _take_path(self, caller: wasmtime.Caller, at: int, length: int) -> bytes | None:
        """A path of the guest, also where wasmtime's functions find it; None when it is too long."""
        if u32(length) > ROOM:
            return None
        name = GuestMemory(caller).read(u32(at), u32(length))
        if name:
            self._memory.write(caller, name, PATH)
        return name

    def _path(self, fd: int, name: bytes = b"") -> str:
        return posixpath.normpath(posixpath.join(self._paths.get(u32(fd), f"/fd/{u32(fd)}"), os.fsdecode(name)))

    def _give_status(self, caller: wasmtime.Caller, path: str, at: int) -> int:
        found = self._memory.read(caller, STAT, STAT + STATUS.size)
        _, _, kind, _, size, _, _, _ = STATUS.unpack(found)
        size = 0 if kind == DIRECTORY else size  # a directory's is its file system's
        plain = STATUS.pack(0, _number(path), kind, 1, size, START_NS, START_NS, START_NS)
        GuestMemory(caller).write(u32(at), plain)
        return SUCCESS


def _number(path: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "little") >> 1
