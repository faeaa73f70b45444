"""Compiled modules, on disk and in memory, so that only the first run of a binary on a machine compiles it.

A compiled module is machine code that runs unchecked: the folder belongs to this proplet alone, and a file is used only
when its content has the sha256 that its name carries.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import wasmtime
from wasmtime import component

from proplet.sandbox.engine import Configuration
from proplet.sandbox.entry import Exited, GuestError

Module = wasmtime.Module | component.Component
Kind = type[wasmtime.Module] | type[component.Component]

COMPONENT = b"\0asm\x0d\0\x01\0"
"""How a component begins; anything else is a core module or refused by the compiler."""
KEPT_LOADED = 8


@dataclass(frozen=True)
class CoreModule:
    """A core module with its imports resolved; ``exports`` says of each export whether it is a function."""

    module: wasmtime.Module
    engine: wasmtime.Engine
    prepared: wasmtime.InstancePre
    exports: dict[str, bool]


@dataclass(frozen=True)
class CommandComponent:
    """A component; ``run`` is its ``wasi:cli/run`` export."""

    component: component.Component
    engine: wasmtime.Engine
    run: str


Loaded = CoreModule | CommandComponent


class ModuleCache:
    """``folder`` holds ``{binary's sha256}-{configuration}-{content's sha256}.cwasm``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._caches: dict[Configuration, _Configured] = {}

    def load(self, digest: str, binary: Path, configuration: Configuration) -> tuple[Loaded, bool]:
        cache = self._caches.get(configuration)
        if cache is None:
            cache = self._caches[configuration] = _Configured(self._folder, configuration)
        return cache.load(digest, binary)


class _Configured:
    def __init__(self, folder: Path, configuration: Configuration) -> None:
        self._folder = folder
        self._engine = configuration.engine()
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()
        define_exit(self._linker)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._configuration = configuration.key

    def load(self, digest: str, binary: Path) -> tuple[Loaded, bool]:
        """The module, ready to instantiate, and whether it had to be compiled. Raises ``GuestError``."""
        known = self._loaded.get(digest)
        if known is not None:
            self._loaded.move_to_end(digest)
            return known, False
        with binary.open("rb") as file:
            kind: Kind = component.Component if file.read(len(COMPONENT)) == COMPONENT else wasmtime.Module
            module = self._from_disk(kind, digest)
            if module is None:
                fcntl.flock(file, fcntl.LOCK_EX)  # a worker of another slot may be compiling it just now
                module = self._from_disk(kind, digest)
            compiled = module is None
            if module is None:
                module = self._compile(kind, digest, binary)
        loaded = self._prepare(module)
        self._loaded[digest] = loaded
        if len(self._loaded) > KEPT_LOADED:
            self._loaded.popitem(last=False)
        return loaded, compiled

    def _stem(self, digest: str) -> str:
        return f"{digest.removeprefix('sha256:')}-{self._configuration}-"

    def _from_disk(self, kind: Kind, digest: str) -> Module | None:
        for path in self._folder.glob(self._stem(digest) + "*.cwasm"):
            with contextlib.suppress(OSError, wasmtime.WasmtimeError):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                if path.name == f"{self._stem(digest)}{content}.cwasm":
                    return kind.deserialize_file(self._engine, str(path))
            path.unlink(missing_ok=True)
        return None

    def _compile(self, kind: Kind, digest: str, binary: Path) -> Module:
        content = binary.read_bytes()
        if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
            raise GuestError(f"the stored binary {digest} was altered on disk", "digest_mismatch")
        try:
            module = kind(self._engine, content)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the binary does not compile: {_one_line(error)}", "guest_invalid") from error
        with contextlib.suppress(OSError):  # a full disk costs time, not the task
            self._keep(digest, module.serialize())
        return module

    def _keep(self, digest: str, content: bytearray) -> None:
        target = self._folder / f"{self._stem(digest)}{hashlib.sha256(content).hexdigest()}.cwasm"
        handle, name = tempfile.mkstemp(prefix=".incoming-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, target)  # noqa: PTH105  # the temporary name is text
        finally:
            Path(name).unlink(missing_ok=True)

    def _prepare(self, module: Module) -> Loaded:
        if isinstance(module, component.Component):
            exports = sorted(module.type.exports(self._engine))
            run = next((name for name in exports if name.startswith("wasi:cli/run@")), None)
            if run is None:
                raise GuestError(
                    f"a component must export wasi:cli/run; this one exports {', '.join(exports) or 'nothing'}",
                    "component_unsupported",
                )
            return CommandComponent(module, self._engine, run)
        try:
            prepared = self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise GuestError(f"the binary cannot be linked: {_one_line(error)}", "guest_link") from error
        exports_of = {export.name: isinstance(export.type, wasmtime.FuncType) for export in module.exports}
        return CoreModule(module, self._engine, prepared, exports_of)


def define_exit(linker: wasmtime.Linker) -> None:
    """``proc_exit`` with any status: wasmtime's own takes one over 125 for a trap, and does not tell it."""

    def leave(status: int) -> None:
        raise Exited(status)

    linker.allow_shadowing = True
    parameters = wasmtime.FuncType([wasmtime.ValType.i32()], [])
    linker.define_func("wasi_snapshot_preview1", "proc_exit", parameters, leave)
    linker.allow_shadowing = False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
