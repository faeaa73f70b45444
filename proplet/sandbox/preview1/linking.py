"""Which of WASI's functions a run finds replaced, and its linker."""

from __future__ import annotations

from collections.abc import Callable

import wasmtime
from wasmtime import FuncType, ValType

from proplet.sandbox.frames import Job
from proplet.sandbox.imports import PREVIEW1
from proplet.sandbox.module_cache import define_exit
from proplet.sandbox.preview1.clock import SteppedClock
from proplet.sandbox.preview1.errno import NOTSUP
from proplet.sandbox.preview1.files import PlainFiles
from proplet.sandbox.preview1.randomness import SeededRandom

PARAMETERS = {  # i is i32, I is i64; each returns an i32
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "poll_oneoff": "iiii",
    "random_get": "ii",
    "fd_filestat_get": "ii",
    "path_filestat_get": "iiiii",
    "path_open": "iiiiiIIii",
    "fd_renumber": "ii",
    "fd_readdir": "iiiIi",
}
CLOCK = ("clock_res_get", "clock_time_get", "poll_oneoff")
RANDOM = ("random_get",)
FILES = ("fd_filestat_get", "path_filestat_get", "path_open", "fd_renumber", "fd_readdir")
INSTANCES = 2
"""The guest's own and the one that ``PlainFiles`` puts between."""


def replaces(job: Job) -> bool:
    return job.deterministic or not (job.clock and job.random)


class OwnFunctions:
    """``refused`` are the things that the guest asked for in vain."""

    def __init__(self, job: Job, store: wasmtime.Store, preopened: list[str]) -> None:
        self.refused: list[str] = []
        self.linker = wasmtime.Linker(store.engine)
        self.linker.define_wasi()
        define_exit(self.linker)
        self.linker.allow_shadowing = True
        if job.deterministic or not job.clock:  # the times of a file are a clock too
            self._define(FILES, PlainFiles(store, self.linker, preopened))
        if not job.clock:
            self._refuse(CLOCK, "the clock")
        elif job.deterministic:
            self._define(CLOCK, SteppedClock())
        if not job.random:
            self._refuse(RANDOM, "random numbers")
        elif job.deterministic:
            self._define(RANDOM, SeededRandom(job.seed))

    def _define(self, names: tuple[str, ...], functions: object) -> None:
        for name in names:
            self._replace(name, getattr(functions, name))

    def _refuse(self, names: tuple[str, ...], what: str) -> None:
        refused = self.refused  # not through self: wasmtime's Python would hold the linker for ever

        def refuse(*_: object) -> int:
            if what not in refused:
                refused.append(what)
            return NOTSUP

        for name in names:
            self._replace(name, refuse)

    def _replace(self, name: str, function: Callable[..., int]) -> None:
        parameters = [ValType.i64() if kind == "I" else ValType.i32() for kind in PARAMETERS[name]]
        self.linker.define_func(PREVIEW1, name, FuncType(parameters, [ValType.i32()]), function, access_caller=True)
