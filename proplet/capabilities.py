"""What this machine offers, as it is told to the manager."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from proplet.container import memory_limit
from swashplate import __version__
from swashplate.messages import Capabilities

WASM_FEATURES = [
    "bulk-memory",
    "component-model",
    "multi-value",
    "mutable-globals",
    "reference-types",
    "relaxed-simd",
    "sign-extension",
    "simd",
    "tail-call",
    "wasi-preview1",
    "wasi-preview2",
]
MOST_DIGESTS = 256
"""Told at most; a create stays a small message."""


def memory_bytes() -> int:
    """Of this machine, or of the container that the proplet is in when that may use less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit() or machine)


def capabilities(
    *,
    slots: int,
    queue: int,
    labels: dict[str, str],
    datasets: list[str],
    digests: list[str],
    confinement: list[str],
) -> Capabilities:
    return Capabilities(
        cpu=os.cpu_count() or 1,
        memory_bytes=memory_bytes(),
        arch=platform.machine(),
        wasm_features=WASM_FEATURES,
        labels=labels,
        datasets=datasets,
        digests=digests[:MOST_DIGESTS],
        slots=slots,
        queue=queue,
        confinement=confinement,
    )


@cache
def described(name: str = "") -> dict[str, Any]:
    """The metadata that the existing API shows of a proplet."""
    return {
        **({"name": name} if name else {}),
        "environment": "docker" if Path("/.dockerenv").exists() else "binary",
        "os": platform.system().lower(),
        "hostname": socket.gethostname(),
        "cpu_arch": platform.machine(),
        "total_memory_bytes": memory_bytes(),
        "proplet_version": __version__,
        "wasm_runtime": f"wasmtime-{metadata.version('wasmtime')}",
    }
