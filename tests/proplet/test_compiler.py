"""From the bytes of a binary to a module that may run, or to one sentence why not."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import wasmtime

from proplet.sandbox.bounds import Bounds
from proplet.sandbox.compiler import compile_binary
from proplet.sandbox.engine import Configuration
from proplet.sandbox.entry import GuestError
from proplet.sandbox.module_cache import ModuleCache
from tests.support import binaries
from tests.support.compiling import DEFAULT, Compiling, called, run

PREVIEW1 = "wasi_snapshot_preview1"
MIB = 1 << 20
DETERMINISTIC = Configuration(deterministic=True)


@pytest.fixture
def compiling(tmp_path) -> Compiling:
    return Compiling(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ('"env" "f" (func)', "function env::f"),
        ('"wasi_unstable" "fd_write" (func)', "function wasi_unstable::fd_write"),
        (f'"{PREVIEW1}" "fd_exec" (func)', f"function {PREVIEW1}::fd_exec"),
        (f'"{PREVIEW1}" "fd_write" (memory 1)', f"memory {PREVIEW1}::fd_write"),
        (f'"{PREVIEW1}" "fd_write" (table 1 funcref)', f"table {PREVIEW1}::fd_write"),
        (f'"{PREVIEW1}" "fd_write" (global i32)', f"global {PREVIEW1}::fd_write"),
        ('"env" "memory" (memory 1 2)', "memory env::memory"),
    ],
)
def test_what_is_not_of_wasi_cannot_be_imported(compiling, wanted, named):
    answer = compiling.compile(f'(module (import {wanted}) (func (export "_start")))')
    assert answer.code == "import_not_allowed"
    assert named in answer.error


def test_an_import_after_allowed_ones_is_found(compiling):
    allowed = f'(import "{PREVIEW1}" "sched_yield" (func (result i32)))' * 200
    answer = compiling.compile(f'(module {allowed} (import "env" "last" (func)))')
    assert "env::last" in answer.error


def test_an_import_of_another_type_is_found_when_it_is_linked(compiling):
    digest = compiling.compiled(f'(module (import "{PREVIEW1}" "fd_write" (func (param f64))))')
    with pytest.raises(GuestError, match="fd_write") as error:
        ModuleCache(compiling.modules).load(digest, DEFAULT)
    assert error.value.code == "guest_link"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("wasi:cli/environment@0.2.0", ""),
        ("wasi:io/streams@0.2.6", ""),
        ("wasi:http/types@0.2.0", "http_unsupported"),
        ("wasi:http/outgoing-handler@0.2.3", "http_unsupported"),
        ("wasi:cli/environment@0.3.0", "import_not_allowed"),
        ("wasi:keyvalue/store@0.2.0", "import_not_allowed"),
        ("my:own/api@1.0.0", "import_not_allowed"),
        ("anything", "import_not_allowed"),
    ],
)
def test_a_component_imports_wasi_alone(compiling, name, code):
    answer = compiling.compile(f'(component (import "{name}" (instance)))')
    assert answer.code == code
    assert bool(code) == (name in answer.error)


@pytest.mark.parametrize(
    ("guest", "code"),
    [
        (f"(module {'(memory 0)' * 100})", "memory_limit"),
        ("(module (memory 1025))", "memory_limit"),
        ("(module (memory 65536))", "memory_limit"),
        ("(module (memory i64 1))", "guest_invalid"),
        ("(module (memory 1 1 shared))", "guest_invalid"),
        ("(module (memory 1 (pagesize 1)))", "guest_invalid"),
        ("(module (table 100001 funcref))", "table_limit"),
        ("(module (table 1 externref))", "guest_invalid"),
        ("(module (tag))", "guest_invalid"),
        ("(module (type (struct)))", "guest_invalid"),
        ("(component (core module (memory 65536)))", "memory_limit"),
        ("(component (component (core module (table 4000000000 funcref))))", "table_limit"),
    ],
)
def test_what_a_run_could_not_have_is_refused_before_it_is_compiled(compiling, guest, code):
    answer = compiling.compile(guest, memory=64 * MIB)
    assert answer.code == code


def test_as_much_as_is_allowed_may_be_declared(compiling):
    assert compiling.compile("(module (memory 1024) (table 100000 funcref))", memory=64 * MIB).compiled


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0asm",
        b"\x7fELF" + bytes(100),
        b"(module)",
        binaries.CORE[:4] + b"\x02\0\0\0",
        binaries.CORE + b"\x05",
        binaries.CORE + b"\x05\xff\xff\xff\xff\x0f",
        binaries.CORE + b"\x05\xff\xff\xff\xff\xff\xff",
        binaries.CORE + binaries.section(2, b"\x01\x01\xff\x01f\0\0"),
        binaries.CORE + binaries.section(5, b"\xff\xff\xff\xff\x0f"),
        b"\0asm\x0d\0\x01\0" + binaries.section(1, b"\0asm\x0d"),
        b"\0asm\x0d\0\x01\0" + binaries.section(1, binaries.CORE + binaries.section(5, b"\x01\xff\x01")),
        b"\0asm\x0d\0\x01\0" + b"\x01",
    ],
)
def test_garbage_is_no_module(compiling, content):
    answer = compiling.compile(content)
    assert answer.code == "guest_invalid"
    assert "\n" not in answer.error


def test_the_place_of_a_mistake_is_told(compiling):
    assert "(at offset 0x" in compiling.compile(binaries.function(b"\x6a")).error


def test_a_binary_that_is_not_what_its_digest_says_is_not_compiled(compiling):
    path, digest = compiling.put("(module)")
    path.write_bytes(bytes(wasmtime.wat2wasm("(module (func))")))
    answer = compile_binary(path, digest, compiling.modules, DEFAULT, Bounds())
    assert answer.code == "digest_mismatch"
    assert not list(compiling.modules.iterdir())


def test_a_binary_over_the_limit_is_not_compiled(compiling):
    assert compiling.compile("(module)", binary_bytes=8).compiled
    assert compiling.compile("(module (func))", binary_bytes=8).code == "binary_too_large"


def test_a_binary_with_very_many_exports_is_not_kept(compiling):
    exports = "".join(f'(export "{number}" (func 0))' for number in range(10_001))
    answer = compiling.compile(f"(module (func) {exports})")
    assert (answer.code, "10001 names" in answer.error) == ("guest_invalid", True)
    assert not list(compiling.modules.iterdir())


def test_a_module_is_compiled_once_for_each_way_to_run_it(compiling):
    guest = '(module (func (export "_start")))'
    ways = [DEFAULT, DETERMINISTIC, Configuration(fuel=True), Configuration(fuel=True, deterministic=True)]
    assert [compiling.compile(guest, way).compiled for way in ways] == [True] * 4
    assert not any(compiling.compile(guest, way).compiled for way in ways)
    assert not compiling.compile(guest, Configuration(stack=64 * 1024)).compiled
    digest = compiling.put(guest)[1]
    modules = ModuleCache(compiling.modules)
    for way in [*ways, Configuration(stack=64 * 1024)]:
        called(modules.load(digest, way), "_start", fuel=1000 if way.fuel else 0)


def test_a_full_disk_is_told(compiling):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        answer = compiling.compile("(module)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert answer.code == "module_not_stored"
    assert not list(compiling.modules.iterdir())


FUSED = """(module (func (export "f") (result v128)
  (f32x4.relaxed_madd (v128.const i64x2 0 0) (v128.const i64x2 0 0) (v128.const i64x2 0 0))))"""


def test_a_deterministic_run_has_one_nan(compiling):
    guest = """(module (func (export "nan") (param f32 f32) (result i32)
      (i32.reinterpret_f32 (f32.div (local.get 0) (local.get 1)))))"""
    digest = compiling.compiled(guest, DETERMINISTIC)
    loaded = ModuleCache(compiling.modules).load(digest, DETERMINISTIC)
    store = wasmtime.Store(loaded.engine)
    assert loaded.prepared.instantiate(store).exports(store)["nan"](store, 0.0, 0.0) == 0x7FC00000


def test_a_deterministic_run_has_no_relaxed_simd(compiling):
    assert compiling.compile(FUSED).compiled
    assert compiling.compile(FUSED, DETERMINISTIC).code == "guest_invalid"


@pytest.mark.parametrize(
    "guest",
    [
        pytest.param(binaries.straight(6_000_000), id="a function of 6 MB"),
        pytest.param(binaries.loops(27_000), id="27 KB of nested loops"),
        pytest.param(binaries.blocks(100_000), id="100,000 nested blocks"),
        pytest.param(
            '(module (memory 320) (data (i32.const 0) "' + "x" * 20_000_000 + '") (func (export "_start")))',
            id="20 MB of data",
        ),
    ],
)
def test_a_large_module_runs(compiling, guest):
    assert run(compiling, guest, "_start") is None


def test_data_beyond_the_memory_is_a_trap_when_it_starts(compiling):
    with pytest.raises(wasmtime.Trap, match="out of bounds"):
        run(compiling, '(module (memory 1) (data (i32.const 65530) "too long") (func (export "_start")))', "_start")


def test_a_start_function_runs_only_when_the_guest_does(compiling):
    guest = '(module (func $start unreachable) (start $start) (func (export "_start")))'
    assert compiling.compile(guest).compiled
    with pytest.raises(wasmtime.Trap, match="unreachable"):
        run(compiling, guest, "_start")


def test_a_compile_that_takes_too_long_is_ended(compiling):
    answer = compiling.in_child(binaries.bomb(20_000), cpu_s=1)
    assert (answer.code, "more than 1 s" in answer.error) == ("compile_limit", True)
    assert not list(compiling.modules.glob("*"))
    assert compiling.compile("(module)").compiled


def test_a_compile_that_takes_too_much_memory_is_ended(compiling):
    answer = compiling.in_child(binaries.straight(1_000_000), data_bytes=100 * MIB)
    assert (answer.code, "100 MiB" in answer.error) == ("compile_limit", True)


FORKS = """
import os, sys
from pathlib import Path
import wasmtime
from proplet.sandbox.engine import Configuration
from proplet.sandbox.module_cache import ModuleCache
from tests.support.compiling import Compiling, called

compiling = Compiling(Path(sys.argv[1]))
modules = ModuleCache(compiling.modules)
first, second = sys.argv[2:]
loaded = modules.load(first, Configuration())
called(loaded, "_start")
for _ in range(3):
    child = os.fork()
    if child == 0:
        try:
            called(modules.load(first, Configuration()), "_start")
            called(modules.load(second, Configuration()), "_start")
        except wasmtime.Trap as trap:
            os._exit(7 if "stack" in str(trap) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
called(modules.load(first, Configuration()), "_start")
"""


def test_an_engine_and_its_modules_live_on_in_forked_processes(compiling, tmp_path):
    digests = [
        compiling.compiled('(module (func (export "_start")))'),
        compiling.compiled('(module (func $f (export "_start") (call $f)))'),
    ]
    command = [sys.executable, "-c", FORKS, str(tmp_path), *digests]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


LIMITED = """
import resource
from proplet.app import enough_descriptors
from proplet.sandbox.bounds import soft_limit
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 30))
for amount in (5000, 1 << 40, 1 << 63, resource.RLIM_INFINITY):
    soft_limit(resource.RLIMIT_FSIZE, amount)
    print(*resource.getrlimit(resource.RLIMIT_FSIZE))
for slots in (1, 100, 10_000):
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 4096))
    enough_descriptors(slots)
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_what_whoever_started_us_allows_is_never_asked_to_be_more():
    ran = subprocess.run([sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True)
    files = ["5000 1073741824", *["1073741824 1073741824"] * 3]
    assert ran.stdout.splitlines() == [*files, "1032 4096", "1824 4096", "4096 4096"]
