"""A compile process: makes one compiled module, within bounds, and ends."""

from __future__ import annotations

import socket
from pathlib import Path

from proplet.sandbox import landlock
from proplet.sandbox.bounds import Compilation
from proplet.sandbox.compiler import compile_binary
from proplet.sandbox.engine import Configuration
from proplet.sandbox.frames import messages, packed_message
from proplet.sandbox.module_cache import ModuleCache


def serve(connection: socket.socket, modules: ModuleCache) -> None:
    asked = next(messages(connection), None)
    if asked is None:
        return
    wanted = Compilation.of(asked)
    wanted.bounds.impose()
    if landlock.version():
        folder = modules.folder
        folder.mkdir(mode=0o700, exist_ok=True)  # who clears the cache may take it along
        key = folder.with_name(f"{folder.name}.key")
        allowed = {wanted.binary: landlock.READ, str(folder): landlock.WRITE, str(key): landlock.READ}
        landlock.restrict(landlock.ruleset(allowed))
    configuration = Configuration(wanted.fuel, wanted.deterministic)
    answer = compile_binary(Path(wanted.binary), wanted.digest, modules.folder, configuration, wanted.bounds)
    connection.sendall(packed_message(answer))
