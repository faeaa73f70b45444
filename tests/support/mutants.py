"""``python -m tests.support.mutants FOLDER FIRST LAST``: damaged modules, numbers FIRST to LAST, compiled and run here.

Each gives a line: its number before anything is done with it, then what came of it. The process ends with SIGALRM when one
takes too long, and with whatever else a mutant does to it.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import wasmtime

from proplet.sandbox.engine import Configuration
from proplet.sandbox.entry import COMMAND, Exited, GuestError
from proplet.sandbox.module_cache import CoreModule, ModuleCache
from tests.support.binaries import leb
from tests.support.compiling import Compiling, called
from tests.support.wat import HELLO

PATIENCE_S = 20
FUELLED = Configuration(fuel=True)

ARITHMETIC = """(module
  (type $binary (func (param i32 i32) (result i32)))
  (memory (export "memory") 1 4) (table 4 8 funcref)
  (global $count (mut i64) (i64.const 7)) (elem (i32.const 0) $add $sub) (data (i32.const 8) "some data")
  (func $add (type $binary) (i32.add (local.get 0) (local.get 1)))
  (func $sub (type $binary) (i32.sub (local.get 0) (local.get 1)))
  (func (export "_start") (local $i i32) (local $f f64)
    (loop $again
      (i32.store (i32.const 64)
        (call_indirect (type $binary) (local.get $i) (i32.load (i32.const 8)) (i32.and (local.get $i) (i32.const 1))))
      (local.set $f (f64.sqrt (f64.convert_i32_u (local.get $i))))
      (global.set $count (i64.mul (global.get $count) (i64.const 1103515245)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 100))))
    (block (block (br_table 0 1 (local.get $i))))
    (drop (memory.grow (i32.const 1)))
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 100))))"""
VECTORS = """(module (memory 1) (start $init)
  (func $init (v128.store (i32.const 0) (i32x4.splat (i32.const 5))))
  (func (export "_start") (param) (local v128)
    (local.set 0 (f32x4.mul (v128.load (i32.const 0)) (f32x4.splat (f32.const 1.5))))
    (v128.store (i32.const 16) (i8x16.swizzle (local.get 0) (local.get 0)))
    (if (i32.eqz (v128.any_true (local.get 0))) (then (unreachable)))))"""
COMPONENT = """(component
  (import "wasi:cli/exit@0.2.0" (instance))
  (core module $m (memory (export "memory") 1) (func (export "run") (param i32) (result i32) (local.get 0)))
  (core instance $i (instantiate $m))
  (func $run (param "x" u32) (result u32) (canon lift (core func $i "run")))
  (export "run" (func $run)))"""
SEEDS = [HELLO, *(bytes(wasmtime.wat2wasm(text)) for text in (ARITHMETIC, VECTORS, COMPONENT))]


def mutant(number: int) -> bytes:
    """The same for the same number."""
    chance = random.Random(number)
    content = SEEDS[number % len(SEEDS)]
    for _ in range(chance.choice([1, 1, 2, 5])):
        content = chance.choice(MUTATIONS)(content, chance)
    return content


def flipped(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]


def replaced(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([chance.choice([0, 1, 0x40, 0x7F, 0x80, 0xFF, 0x0B])]) + content[place + 1 :]


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))] or content


def removed(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + content[place + chance.randrange(1, 5) :] or content


def inserted(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(chance.randrange(1, 9)) + content[place:]


def sections(content: bytes) -> list[tuple[int, bytes]]:
    """Kind and content of each, as far as they can be told apart."""
    found, at = [], 8
    while at < len(content):
        kind, at = content[at], at + 1
        size = shift = 0
        while at < len(content):
            byte, at = content[at], at + 1
            size, shift = size | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        found.append((kind, content[at : at + size]))
        at += size
    return found


def rejoined(content: bytes, parts: list[tuple[int, bytes]], length: int = 1) -> bytes:
    """Sizes take at least ``length`` bytes."""
    return content[:8] + b"".join(bytes([kind]) + leb(len(part), length) + part for kind, part in parts)


def swapped(content: bytes, chance: random.Random) -> bytes:
    parts = sections(content)
    chance.shuffle(parts)
    return rejoined(content, parts)


def doubled(content: bytes, chance: random.Random) -> bytes:
    parts = sections(content)
    return rejoined(content, [*parts, chance.choice(parts)]) if parts else content


def dropped(content: bytes, chance: random.Random) -> bytes:
    parts = sections(content)
    return rejoined(content, chance.sample(parts, max(len(parts) - 1, 0)))


def bloated(content: bytes, chance: random.Random) -> bytes:
    return rejoined(content, sections(content), chance.choice([2, 5, 6, 10]))


def lying(content: bytes, chance: random.Random) -> bytes:
    """A number in a section is as large as can be."""
    place = chance.randrange(min(8, len(content) - 1), len(content))
    return content[:place] + leb(chance.choice([2**32 - 1, 2**31, 2**35, 10_000_000])) + content[place + 1 :]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    flipped, replaced, cut, removed, inserted, swapped, doubled, dropped, bloated, lying,
]  # fmt: skip


def fate(compiling: Compiling, modules: ModuleCache, content: bytes) -> str:
    """``ran``, ``loaded`` or a code."""
    answer = compiling.compile(content, FUELLED, memory=64 << 20)
    if answer.error:
        return answer.code
    try:
        loaded = modules.load(compiling.put(content)[1], FUELLED)
        if not isinstance(loaded, CoreModule) or not loaded.exports.get(COMMAND):
            return "loaded"
        called(loaded, COMMAND, fuel=1_000_000)
    except GuestError as error:
        return error.code
    except (wasmtime.Trap, wasmtime.WasmtimeError, Exited) as error:
        return type(error).__name__.lower()
    return "ran"


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    compiling = Compiling(folder)
    modules = ModuleCache(compiling.modules)
    for number in range(first, last):
        content = mutant(number)
        print(number, end=" ", flush=True)
        signal.alarm(PATIENCE_S)
        print(fate(compiling, modules, content), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
