"""A place for one guest's memory and tables that an engine keeps from run to run: to map and to unmap it would take longer
than a short run. The runtime clears it before the next guest is there. wasmtime's Python has no name for it.
"""

from __future__ import annotations

import wasmtime
from wasmtime import _ffi as ffi

TABLES = 8
ELEMENTS = 100_000
"""Of each table: 8 bytes, which take room only where they are written."""
MEMORY = 512 << 20
"""Bytes. The kernel counts what a guest has grown to as this process's own until the next guest has begun."""
SETTINGS = {
    "total_core_instances": 1,
    "total_memories": 1,
    "total_tables": TABLES,
    "max_tables_per_module": TABLES,
    "table_elements": ELEMENTS,
    "max_core_instance_size": 1 << 30,  # no limit: it is allocated as it would be without a pool
    "linear_memory_keep_resident": 64 << 10,
    "table_keep_resident": 4 << 10,
    "total_component_instances": 0,
    "total_stacks": 0,
    "total_gc_heaps": 0,
}
"""``keep_resident`` are bytes that are overwritten with zeros rather than given back."""


def pool(config: wasmtime.Config) -> None:
    """The engines of ``config`` run one core module at a time, within ``TABLES``, ``ELEMENTS`` and ``MEMORY``."""
    pooling = ffi.wasmtime_pooling_allocation_config_new()
    for name, value in SETTINGS.items():
        getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")(pooling, value)
    ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pooling)
    ffi.wasmtime_pooling_allocation_config_delete(pooling)
