"""Modules ready to run, in one process: loaded from disk, where another process put them, and linked."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import wasmtime
from wasmtime import component

from proplet.sandbox.engine import Configuration
from proplet.sandbox.entry import Exited, GuestError
from proplet.sandbox.module_folder import Contents, ModuleFolder, Stored

Signature = tuple[list[str], list[str]]
Kind = TypeVar("Kind", wasmtime.Module, component.Component)

KEPT_LOADED, KEPT_BYTES = 8, 256 << 20
"""Of modules in one process; the bytes are mapped from files, so that what was not used takes no memory."""
KEPT_ENGINES = 4
TOUCH_EVERY_S = 5.0
"""Less often than the folder drops what was not used."""


class NotCompiled(Exception):  # noqa: N818
    """There is no such module on disk: it must be compiled first."""


@dataclass(frozen=True)
class CoreModule:
    """A core module, also with its imports resolved; ``exports`` says of each export whether it is a function.

    ``vectors`` are those that take or return a v128: to ask wasmtime's C API for their type ends the process.
    """

    engine: wasmtime.Engine
    module: wasmtime.Module
    prepared: wasmtime.InstancePre
    exports: dict[str, bool]
    vectors: frozenset[str]
    signatures: dict[str, Signature] = field(default_factory=dict)
    """Of the functions that were called: the types of the parameters and of the results."""


@dataclass(frozen=True)
class LoadedComponent:
    """``linker`` has WASI; ``exports`` says of each export whether it is a function, an instance's is ``instance#func``."""

    engine: wasmtime.Engine
    linker: component.Linker
    component: component.Component
    exports: dict[str, bool]


Loaded = CoreModule | LoadedComponent


class ModuleCache:
    """``folder`` is that of a ``ModuleFolder``, ``clock`` counts seconds. An engine made before a fork serves on in the child."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._folder = ModuleFolder(folder)
        self._linkers: OrderedDict[Configuration, wasmtime.Linker] = OrderedDict()
        self._loaded: OrderedDict[tuple[str, Configuration], tuple[Loaded, int]] = OrderedDict()
        self._touched: dict[tuple[str, Configuration], float] = {}
        self._bytes = 0

    def load(self, digest: str, configuration: Configuration) -> Loaded:
        """Raises ``NotCompiled``, and ``GuestError`` for a module that cannot be linked."""
        wanted = digest, configuration
        known = self._loaded.get(wanted)
        if known is not None:
            self._loaded.move_to_end(wanted)
            if self._clock() - self._touched[wanted] > TOUCH_EVERY_S:
                self._folder.touch(digest, configuration.key)
                self._touched[wanted] = self._clock()
            return known[0]
        with self._folder.opened(digest, configuration.key) as stored:
            if stored is None:
                raise NotCompiled(digest)
            try:
                loaded = self._ready(stored, configuration)
            except wasmtime.WasmtimeError as error:  # the runtime itself was replaced under the same version
                self._folder.drop(digest, configuration.key)
                raise NotCompiled(digest) from error
        self._remember(wanted, loaded, stored.size)
        return loaded

    def linker(self, configuration: Configuration) -> wasmtime.Linker:
        """With WASI, for the engine of ``configuration``."""
        linker = self._linkers.get(configuration)
        if linker is None:
            linker = wasmtime.Linker(configuration.engine())
            linker.define_wasi()
            define_exit(linker)
            self._linkers[configuration] = linker
            if len(self._linkers) > KEPT_ENGINES:
                self._linkers.popitem(last=False)
        self._linkers.move_to_end(configuration)
        return linker

    def _ready(self, stored: Stored, configuration: Configuration) -> Loaded:
        if stored.contents.component:
            engine = self.linker(configuration._replace(pooled=False)).engine
            wasi = component.Linker(engine)
            wasi.add_wasip2()
            return LoadedComponent(engine, wasi, _mapped(component.Component, engine, stored), stored.contents.exports)
        try:
            module = _mapped(wasmtime.Module, self.linker(configuration).engine, stored)
        except wasmtime.WasmtimeError:
            if not configuration.pooled:
                raise
            # It may begin with more than the pool has a place for; what it may have, a run of it is told.
            return self._ready(stored, configuration._replace(pooled=False))
        return self._linked(module, stored.contents, configuration)

    def _linked(self, module: wasmtime.Module, contents: Contents, configuration: Configuration) -> CoreModule:
        linker = self.linker(configuration)
        try:
            prepared = linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise GuestError(
                f"the binary cannot be linked: {' '.join(str(error).split())[:500]}", "guest_link"
            ) from error
        return CoreModule(linker.engine, module, prepared, contents.exports, frozenset(contents.vectors))

    @contextlib.contextmanager
    def lent(
        self, digest: str, configuration: Configuration, module: wasmtime.Module, contents: Contents
    ) -> Iterator[None]:
        """Have ``module``, which is in no folder, meanwhile."""
        wanted = digest, configuration
        self._remember(wanted, self._linked(module, contents, configuration), 0)
        try:
            yield
        finally:
            del self._loaded[wanted], self._touched[wanted]

    def _remember(self, wanted: tuple[str, Configuration], loaded: Loaded, size: int) -> None:
        self._loaded[wanted] = loaded, size
        self._touched[wanted] = self._clock()
        self._bytes += size
        while len(self._loaded) > 1 and (len(self._loaded) > KEPT_LOADED or self._bytes > KEPT_BYTES):
            forgotten, (_, dropped) = self._loaded.popitem(last=False)
            del self._touched[forgotten]
            self._bytes -= dropped


def _mapped(kind: type[Kind], engine: wasmtime.Engine, stored: Stored) -> Kind:
    try:
        return kind.deserialize_file(engine, stored.code)
    except wasmtime.WasmtimeError:  # a file system that is mounted noexec
        return kind.deserialize(engine, Path(stored.code).read_bytes())


def define_exit(linker: wasmtime.Linker) -> None:
    """``proc_exit`` with any status: wasmtime's own takes one over 125 for a trap, and does not tell it."""

    def leave(status: int) -> None:
        raise Exited(status)

    linker.allow_shadowing = True
    parameters = wasmtime.FuncType([wasmtime.ValType.i32()], [])
    linker.define_func("wasi_snapshot_preview1", "proc_exit", parameters, leave)
    linker.allow_shadowing = False
