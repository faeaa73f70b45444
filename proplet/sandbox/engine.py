"""How guests are compiled and run: the engine's settings, and the name under which what it made can be found again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import wasmtime

from proplet.sandbox import pooling

VERSION = ",".join(sorted(path.name for path in Path(wasmtime.__file__).parents[1].glob("wasmtime-*.dist-info")))
"""Of the runtime; importlib.metadata says the same and costs the processes that run guests 4 MB."""
STACK = 512 * 1024
"""Bytes. Well below the 8 MiB of a main thread's stack: recursion ends in a trap, not in the death of the host."""

THREADS = min(4, len(os.sched_getaffinity(0)))
"""Each takes memory of its own."""

OFF = (
    "wasm_threads",
    "shared_memory",
    "wasm_memory64",
    "wasm_custom_page_sizes",
    "wasm_wide_arithmetic",
    "wasm_stack_switching",
    "wasm_function_references",
    "wasm_gc",
    "wasm_exceptions",
    "gc_support",
    "wasm_component_model_map",
    "wasm_component_model_implements",
)
"""What no toolchain asks for unless told to: newer, less examined parts of the runtime. Several memories stay on, because
components are joined with them; their number is limited elsewhere."""


class Configuration(NamedTuple):
    """``fuel`` counts instructions. ``deterministic``: the same bits on any machine. ``stack`` is the guest's, in bytes.
    ``pooled``: see ``pooling``.
    """

    fuel: bool = False
    deterministic: bool = False
    stack: int = STACK
    pooled: bool = False

    def engine(self) -> wasmtime.Engine:
        """To run modules. It may be inherited through a fork, as it has no thread."""
        config = self._config()
        if self.pooled:
            pooling.pool(config)
        return wasmtime.Engine(config)

    def compiling_engine(self, *, optimise: bool) -> wasmtime.Engine:
        """To compile modules that ``engine`` runs, in some threads: not in a process that forks afterwards."""
        os.environ["RAYON_NUM_THREADS"] = str(THREADS)
        config = self._config()
        config.parallel_compilation = True
        config.cranelift_opt_level = "speed" if optimise else "none"
        return wasmtime.Engine(config)

    def _config(self) -> wasmtime.Config:
        config = wasmtime.Config()
        config.strategy = "cranelift"
        config.parallel_compilation = False
        config.max_wasm_stack = self.stack
        for proposal in OFF:
            setattr(config, proposal, False)
        for name, value in self._of_the_code().items():
            setattr(config, name, value)
        return config

    def _of_the_code(self) -> dict[str, bool]:
        return {
            "consume_fuel": self.fuel,
            "cranelift_nan_canonicalization": self.deterministic,
            "wasm_relaxed_simd": not self.deterministic,
        }

    @property
    def key(self) -> str:
        """The same for two configurations exactly when this machine can run the code of either in the other.

        The stack is not in it: the code asks for its end when it runs. Nor is the pool, which changes no code.
        """
        return _key(**self._of_the_code())


USUAL = Configuration(pooled=True)
"""Of core modules that ask for nothing special: only this one keeps a pool, so that a process has no more than one."""


@functools.cache
def _key(**of_the_code: bool) -> str:
    described = json.dumps([VERSION, OFF, of_the_code, processor()])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


@functools.cache  # a child that is confined cannot look any more
def processor() -> list[str]:
    """What Cranelift may find and use: the architecture and what the kernel says that the processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = {line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features", "isa"))}
    return [platform.machine(), *sorted(features)]
