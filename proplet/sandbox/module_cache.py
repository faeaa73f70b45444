"""Compiled modules, on disk and in memory, so that only the first run of a binary on a machine compiles it.

A compiled module is machine code that runs unchecked: the folder belongs to this proplet alone, and a file is used only
when its content has the sha256 that its name carries.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import wasmtime
from wasmtime import component

from proplet.sandbox.entry import Exited, GuestError

Module = wasmtime.Module | component.Component
Kind = type[wasmtime.Module] | type[component.Component]

COMPONENT = b"\0asm\x0d\0\x01\0"
"""How a component begins; anything else is a core module or refused by the compiler."""
KEPT_LOADED = 8
MAX_WASM_STACK = 512 * 1024
"""Bytes. Well below the 8 MiB of a main thread's stack: recursion ends in a trap, not in the death of the host."""


def engine() -> wasmtime.Engine:
    """Cranelift; no threads, no shared or 64-bit memory; fuel and epochs off, as killing the process is cheaper."""
    config = wasmtime.Config()
    config.strategy = "cranelift"
    config.wasm_threads = False
    config.shared_memory = False
    config.wasm_memory64 = False
    config.max_wasm_stack = MAX_WASM_STACK
    return wasmtime.Engine(config)


CONFIGURATION = hashlib.sha256(
    f"wasmtime {metadata.version('wasmtime')} stack {MAX_WASM_STACK} no threads, memory64".encode()
).hexdigest()[:16]


class NotCompiledError(Exception):
    """The module must be compiled first."""


def kind_of(content: bytes) -> Kind:
    return component.Component if content[: len(COMPONENT)] == COMPONENT else wasmtime.Module


def stem(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')}-{CONFIGURATION}-"


def file_name(digest: str, compiled: bytes | bytearray) -> str:
    return f"{stem(digest)}{hashlib.sha256(compiled).hexdigest()}.cwasm"


@dataclass(frozen=True)
class CoreModule:
    """A core module with its imports resolved; ``exports`` says of each export whether it is a function."""

    prepared: wasmtime.InstancePre
    exports: dict[str, bool]


@dataclass(frozen=True)
class CommandComponent:
    """A component; ``run`` is its ``wasi:cli/run`` export."""

    component: component.Component
    run: str


Loaded = CoreModule | CommandComponent


class ModuleCache:
    """``folder`` holds ``{binary's sha256}-{configuration}-{content's sha256}.cwasm``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engine = engine()
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()
        _define_exit(self._linker)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    @property
    def engine(self) -> wasmtime.Engine:
        return self._engine

    def load(self, digest: str, binary: Path) -> Loaded:
        """The module, ready to instantiate. Raises ``NotCompiledError`` and ``GuestError``."""
        known = self._loaded.get(digest)
        if known is not None:
            self._loaded.move_to_end(digest)
            return known
        with binary.open("rb") as file:
            module = self._from_disk(kind_of(file.read(len(COMPONENT))), digest)
        if module is None:
            raise NotCompiledError(digest)
        loaded = self._prepare(module)
        self._loaded[digest] = loaded
        if len(self._loaded) > KEPT_LOADED:
            self._loaded.popitem(last=False)
        return loaded

    def _from_disk(self, kind: Kind, digest: str) -> Module | None:
        for path in self._folder.glob(stem(digest) + "*.cwasm"):
            with contextlib.suppress(OSError, wasmtime.WasmtimeError):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                if path.name == f"{stem(digest)}{content}.cwasm":
                    return kind.deserialize_file(self._engine, str(path))
            path.unlink(missing_ok=True)
        return None

    def _prepare(self, module: Module) -> Loaded:
        if isinstance(module, component.Component):
            exports = sorted(module.type.exports(self._engine))
            run = next((name for name in exports if name.startswith("wasi:cli/run@")), None)
            if run is None:
                raise GuestError(
                    f"a component must export wasi:cli/run; this one exports {', '.join(exports) or 'nothing'}",
                    "component_unsupported",
                )
            return CommandComponent(module, run)
        try:
            prepared = self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the binary cannot be linked: {_one_line(error)}", "guest_link") from error
        exports_of = {export.name: isinstance(export.type, wasmtime.FuncType) for export in module.exports}
        return CoreModule(prepared, exports_of)


def _define_exit(linker: wasmtime.Linker) -> None:
    """``proc_exit`` with any status: wasmtime's own takes one over 125 for a trap, and does not tell it."""

    def leave(status: int) -> None:
        raise Exited(status)

    linker.allow_shadowing = True
    parameters = wasmtime.FuncType([wasmtime.ValType.i32()], [])
    linker.define_func("wasi_snapshot_preview1", "proc_exit", parameters, leave)
    linker.allow_shadowing = False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
