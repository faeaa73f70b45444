"""One export of an instance found, and a command called, without what wasmtime's Python does beside: it wraps every export of
an instance to find one, and asks for a function's type at each call. Together that takes as long as the guest's instance.
"""
# ruff: noqa: SLF001  # there is no public way, and the version is pinned

from __future__ import annotations

import ctypes

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime._exportable import AsExtern
from wasmtime._extern import wrap_extern
from wasmtime._func import enter_wasm


def export(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> AsExtern:
    """Raises ``KeyError``."""
    encoded = name.encode()
    found = ffi.wasmtime_extern_t()
    if not ffi.wasmtime_instance_export_get(
        store._context(),
        ctypes.byref(instance._instance),
        ctypes.create_string_buffer(encoded, len(encoded) + 1),
        len(encoded),
        ctypes.byref(found),
    ):
        raise KeyError(name)
    return wrap_extern(found)


def call_command(store: wasmtime.Store, function: wasmtime.Func) -> None:
    """Of a function without parameters and results. Raises what ``function(store)`` does."""
    with enter_wasm(store) as trap:
        error = ffi.wasmtime_func_call(store._context(), ctypes.byref(function._func), None, 0, None, 0, trap)
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)
