"""Small guests, compiled from text."""

import wasmtime

HELLO: bytes = bytes(
    wasmtime.wat2wasm(
        """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hello\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    )
)
"""Prints ``hello`` and a newline."""

SPIN: bytes = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'))
"""Never ends."""


def prints_many(count: int, *, byte: int = 0x61, then: str = "") -> str:
    """A command that prints ``byte`` so often, a megabyte at a time, and then does ``then``."""
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 18)
      (func (export "_start") (local $left i32)
        (memory.fill (i32.const 65536) (i32.const {byte}) (i32.const 1048576))
        (local.set $left (i32.const {count}))
        (loop $again
          (i32.store (i32.const 0) (i32.const 65536))
          (i32.store (i32.const 4)
            (select (local.get $left) (i32.const 1048576) (i32.lt_u (local.get $left) (i32.const 1048576))))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
          (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 16))))
          (br_if $again (i32.gt_s (local.get $left) (i32.const 0))))
        {then}))"""


A_WHILE = """(local.set $left (i32.const 2000000000))
  (loop $on (br_if $on (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))"""
"""The best part of a second."""
