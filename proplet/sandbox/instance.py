"""An instance made, one export of it found, and a command called, without what wasmtime's Python does beside: it wraps every
export of an instance to find one, and asks for a function's type at each call. Together that takes as long as the instance.
"""
# ruff: noqa: SLF001  # there is no public way, and the version is pinned

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any, NoReturn

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime._func import maybe_raise_last_exn

if TYPE_CHECKING:
    from ctypes import _Pointer as Pointer

FUNCTION, MEMORY = ffi.WASMTIME_EXTERN_FUNC.value, ffi.WASMTIME_EXTERN_MEMORY.value
TABLE = ffi.WASMTIME_EXTERN_TABLE.value
NoTrap = ctypes.POINTER(ffi.wasm_trap_t)


def instantiate(store: wasmtime.Store, prepared: wasmtime.InstancePre) -> wasmtime.Instance:
    """Raises what ``prepared.instantiate(store)`` does."""
    made, trap = ffi.wasmtime_instance_t(), NoTrap()
    error = ffi.wasmtime_instance_pre_instantiate(
        prepared.ptr(), store._context(), ctypes.byref(made), ctypes.byref(trap)
    )
    if error or trap:
        _raise(error, trap)
    return wasmtime.Instance._from_raw(made)


def function(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> wasmtime.Func:
    """Raises ``KeyError`` when nothing of that name is a function."""
    found = _found(store, instance, name)
    if found.kind != FUNCTION:  # type: ignore[comparison-overlap]  # the field of a structure is an int
        raise KeyError(name)
    return wasmtime.Func._from_raw(found.of.func)


def memory(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> wasmtime.Memory | None:
    """None when something else has the name. Raises ``KeyError`` when nothing has."""
    found = _found(store, instance, name)
    if found.kind != MEMORY:  # type: ignore[comparison-overlap]
        return None
    return wasmtime.Memory._from_raw(found.of.memory)


def tables(store: wasmtime.Store, instance: wasmtime.Instance, names: list[str]) -> list[wasmtime.Table]:
    """Those exports of ``names`` that are tables."""
    found = [_found(store, instance, name) for name in names]
    return [wasmtime.Table._from_raw(each.of.table) for each in found if each.kind == TABLE]  # type: ignore[comparison-overlap]


def _found(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> ffi.wasmtime_extern_t:
    buffer = _buffer(name)
    found = ffi.wasmtime_extern_t()
    if not ffi.wasmtime_instance_export_get(
        store._context(), ctypes.byref(instance._instance), buffer, len(buffer), ctypes.byref(found)
    ):
        raise KeyError(name)
    return found


@functools.lru_cache(16)
def _buffer(name: str) -> ctypes.Array[ctypes.c_char]:
    encoded = name.encode()
    return ctypes.create_string_buffer(encoded, len(encoded))


def call_command(store: wasmtime.Store, called: wasmtime.Func) -> None:
    """Of a function without parameters and results. Raises what ``called(store)`` does."""
    trap = NoTrap()
    error = ffi.wasmtime_func_call(store._context(), ctypes.byref(called._func), None, 0, None, 0, ctypes.byref(trap))
    if error or trap:
        _raise(error, trap)


def _raise(error: Pointer[Any], trap: Pointer[Any]) -> NoReturn:
    """What a function of ours raised, when the guest called one, goes before what the runtime makes of it."""
    failure = wasmtime.WasmtimeError._from_ptr(error) if error else wasmtime.Trap._from_ptr(trap)
    maybe_raise_last_exn()
    raise failure
