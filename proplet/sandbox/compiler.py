"""A compile process: makes one compiled module, within bounds, and ends."""

from __future__ import annotations

import hashlib
import math
import os
import resource
import socket
from pathlib import Path

import wasmtime

from proplet.sandbox import module_cache
from proplet.sandbox.frames import Answer, Compilation, packed_message, receive


def serve(connection: socket.socket, folder: Path) -> None:
    asked = receive(connection)
    if asked is None:
        return
    wanted = Compilation(**asked)
    cpu_s = math.ceil(wanted.cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (wanted.memory, wanted.memory))
    connection.sendall(packed_message(compile(wanted, folder)))


def compile(wanted: Compilation, folder: Path) -> Answer:  # noqa: A001  # that is what it does
    """Compile the binary into ``folder``, where its name appears once it is complete. Never raises for a bad binary."""
    content = Path(wanted.binary).read_bytes()
    if "sha256:" + hashlib.sha256(content).hexdigest() != wanted.digest:
        return Answer(error=f"the stored binary {wanted.digest} was altered on disk", code="digest_mismatch")
    try:
        compiled = module_cache.kind_of(content)(module_cache.engine(), content).serialize()
    except wasmtime.WasmtimeError as error:
        return Answer(error=f"the binary does not compile: {' '.join(str(error).split())[:500]}", code="guest_invalid")
    try:
        incoming = unfinished(folder, os.getpid())
        incoming.write_bytes(compiled)
        incoming.rename(folder / module_cache.file_name(wanted.digest, compiled))
    except OSError as error:
        return Answer(error=f"the compiled module cannot be kept: {error.strerror}", code="module_cache")
    return Answer(compiled=True)


def unfinished(folder: Path, process: int) -> Path:
    """What the compile process of this id writes before it is complete."""
    return folder / f".incoming-{process}"


def forget(folder: Path, process: int) -> None:
    """Remove what a compile process that has ended left behind."""
    unfinished(folder, process).unlink(missing_ok=True)
