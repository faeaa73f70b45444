"""Compiles as a compile child would, in this process or in one of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import wasmtime

from proplet.sandbox.bounds import Bounds
from proplet.sandbox.compiler import compile_binary
from proplet.sandbox.engine import Configuration
from proplet.sandbox.frames import Answer
from proplet.sandbox.module_cache import Loaded, ModuleCache

DEFAULT = Configuration()

CHILD = """
import json, sys
from pathlib import Path
from proplet.sandbox.bounds import Bounds
from proplet.sandbox.compiler import compile_binary
from proplet.sandbox.engine import Configuration
binary, digest, folder, bounds = sys.argv[1:]
bounds = Bounds(**json.loads(bounds))
bounds.impose()
answer = compile_binary(Path(binary), digest, Path(folder), Configuration(), bounds)
print(json.dumps(vars(answer)))
"""


class Compiling:
    """Binaries, and the modules made of them, below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.modules = folder / "modules"

    def put(self, guest: str | bytes) -> tuple[Path, str]:
        """Where ``guest``, WAT or WASM, is, and its digest."""
        content = bytes(wasmtime.wat2wasm(guest)) if isinstance(guest, str) else guest
        digest = hashlib.sha256(content).hexdigest()
        path = self._folder / digest
        path.write_bytes(content)
        return path, f"sha256:{digest}"

    def compile(self, guest: str | bytes, configuration: Configuration = DEFAULT, **bounds: int) -> Answer:
        return compile_binary(*self.put(guest), self.modules, configuration, Bounds(**bounds))

    def compiled(self, guest: str | bytes, configuration: Configuration = DEFAULT) -> str:
        """The digest of ``guest``, which compiles."""
        answer = self.compile(guest, configuration)
        assert (answer.error, answer.code) == ("", "")
        return self.put(guest)[1]

    def in_child(self, guest: bytes, **bounds: int) -> Answer:
        """Compile in a process that has ``bounds``."""
        path, digest = self.put(guest)
        command = [sys.executable, "-c", CHILD, str(path), digest, str(self.modules), json.dumps(bounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode < 0:
            return Bounds(**bounds).ended(-done.returncode)
        assert done.returncode == 0, done.stderr
        return Answer(**json.loads(done.stdout))


def called(loaded: Loaded, export: str, fuel: int = 0) -> object:
    """What the function ``export`` of a core module returns, under the limits of a task."""
    store = wasmtime.Store(loaded.engine)
    store.set_limits(memory_size=64 << 20, table_elements=100_000, instances=1, tables=8, memories=1)
    store.set_wasi(wasmtime.WasiConfig())
    if fuel:
        store.set_fuel(fuel)
    function = loaded.prepared.instantiate(store).exports(store)[export]
    return function(store)


def run(compiling: Compiling, guest: str | bytes, export: str, configuration: Configuration = DEFAULT) -> object:
    digest = compiling.compiled(guest, configuration)
    return called(ModuleCache(compiling.modules).load(digest, configuration), export)
