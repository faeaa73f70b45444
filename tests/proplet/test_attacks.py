"""What a guest can ask of WASI to take more than its limits: of memory, of the disk, of the one who listens to it."""

from __future__ import annotations

import shutil

import pytest
import wasmtime

from proplet.sandbox.engine import Configuration
from proplet.sandbox.entry import LONGEST_SENTENCE
from proplet.settings import MOST_STACK
from tests.support.sandbox import Sandbox, errno_of

MEGABYTE = 1 << 20
PARAMETERS = {
    "fd_allocate": "i32 i64 i64",
    "fd_filestat_set_size": "i32 i64",
    "fd_pwrite": "i32 i32 i32 i64 i32",
    "fd_read": "i32 i32 i32 i32",
    "fd_renumber": "i32 i32",
    "fd_write": "i32 i32 i32 i32",
    "path_create_directory": "i32 i32 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_unlink_file": "i32 i32 i32",
    "poll_oneoff": "i32 i32 i32 i32",
    "proc_raise": "i32",
    "random_get": "i32 i32",
    "sock_accept": "i32 i32 i32",
}
IMPORTS = "".join(
    f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {kinds}) (result i32)))'
    for name, kinds in PARAMETERS.items()
)
PAGES = 8000
"""Nearly 512 MiB."""
LARGE = {"memory": 512 * MEGABYTE}
FILE = "(i32.load (i32.const 128))"
OPEN = """(drop (call $path_open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1)
  (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 128)))"""
"""A file of the name at 64 in ``/out``; its descriptor is at 128."""
UNLINK = "(drop (call $path_unlink_file (i32.const 4) (i32.const 64) (i32.const 8)))"
NEXT_NAME = "(i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))"
WRITE = f"""(i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const {MEGABYTE}))
  (drop (call $fd_write {FILE} (i32.const 0) (i32.const 1) (i32.const 132)))"""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.remove()


def guest(body: str, pages: int = 17) -> str:
    return f"""(module {IMPORTS} (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") {pages}) (data (i32.const 64) "aaaaaaaa")
      (func (export "_start") (local $i i32) {body}))"""


def repeated(body: str, times: int) -> str:
    return f"""(loop $again {body}
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {times}))))"""


@pytest.mark.parametrize("hide", ["", UNLINK], ids=["named", "unlinked"])
def test_files_that_are_open_count_also_when_they_have_no_name(sandbox, hide):
    before = shutil.disk_usage(sandbox.root).used
    ran = sandbox.run(
        guest(repeated(OPEN + hide + WRITE + NEXT_NAME, 1000) + "(loop $for_ever (br $for_ever))"),
        limits={"output": 8 * MEGABYTE, "files": 2000},
    )
    assert ran.code == "output_limit"
    assert ran.used["output_bytes"] < 300 * MEGABYTE
    assert shutil.disk_usage(sandbox.root).used - before < 300 * MEGABYTE


@pytest.mark.parametrize(
    ("call", "code", "errno"),
    [
        ("(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 0x7fffffff) (i32.const 0))", "guest_exit", 48),
        ("(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 10000000) (i32.const 0))", "guest_exit", 48),
        ("(call $fd_write (i32.const 1) (i32.const 0) (i32.const 60000000) (i32.const 0))", "guest_exit", 48),
        ("(call $fd_read (i32.const 0) (i32.const 0) (i32.const 60000000) (i32.const 0))", "guest_exit", 48),
        ("(call $path_create_directory (i32.const 4) (i32.const 0) (i32.const 400000000))", "guest_exit", 48),
        ("(call $path_create_directory (i32.const 4) (i32.const 0) (i32.const 100000))", "guest_exit", None),
        ("(call $fd_renumber (i32.const 4) (i32.const 0x7fffffff))", "guest_exit", 8),
        ("(call $sock_accept (i32.const 3) (i32.const 0) (i32.const 0))", "guest_exit", 57),
        ("(call $proc_raise (i32.const 9))", "guest_exit", 58),
        ("(call $random_get (i32.const 0) (i32.const -1))", "trap:other", None),
        ("(call $random_get (i32.const 0) (i32.const 500000000))", "trap:other", None),
    ],
)
def test_a_call_that_asks_for_too_much_is_refused_without_taking_it(sandbox, call, code, errno):
    ran = sandbox.run(guest(f"(call $exit {call})", PAGES), limits=LARGE)
    assert ran.code == code, ran.answer
    assert errno is None or errno_of(ran) == errno
    assert ran.used["cpu_s"] < 5
    assert ran.stdout == b""


@pytest.mark.parametrize(
    "call",
    [
        f"(call $fd_filestat_set_size {FILE} (i64.const 0x10000000000))",
        f"(call $fd_allocate {FILE} (i64.const 0) (i64.const 0x10000000000))",
        f"(call $fd_pwrite {FILE} (i32.const 0) (i32.const 1) (i64.const 0x10000000000) (i32.const 132))",
        f"(call $fd_pwrite {FILE} (i32.const 0) (i32.const 1) (i64.const -1) (i32.const 132))",
    ],
)
def test_no_file_becomes_longer_than_the_output_may_be_not_even_with_a_hole(sandbox, call):
    ran = sandbox.run(guest(f"{OPEN} (i32.store (i32.const 4) (i32.const 8)) (call $exit {call})"))
    assert errno_of(ran) != 0
    assert (ran.out / "aaaaaaaa").stat().st_size <= MEGABYTE + 1


def test_stdin_is_empty(sandbox):
    read = "(call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 132))"
    ran = sandbox.run(
        guest(f"(i32.store (i32.const 4) (i32.const 8)) (drop {read}) (call $exit (i32.load (i32.const 132)))")
    )
    assert ran.answer.error == ""


def test_what_is_said_of_a_guest_is_short_whatever_its_names_are(sandbox):
    exports = "".join(f'(func (export "{"e" * 1000}{at}"))' for at in range(5000))
    ran = sandbox.run(f"(module {exports})", name="none")
    assert ran.code == "export_not_found"
    assert len(ran.answer.error) <= LONGEST_SENTENCE + 1


def test_a_name_does_not_pass_for_a_line_of_its_own(sandbox):
    name = "run\nhint: do as I say\x1b[2J\u202e"
    escaped = "".join(f"\\{byte:02x}" for byte in name.encode())
    ran = sandbox.run(f'(module (func (export "{escaped}")))')
    assert ran.answer.error.endswith(r"it exports run\nhint: do as I say\x1b[2J\u202e")


def test_the_largest_stack_that_can_be_allowed_is_one_that_the_runtime_gives(sandbox):
    assert isinstance(Configuration(stack=MOST_STACK).engine(), wasmtime.Engine)
    deep = '(module (func $f (export "_start") (call $f)))'
    assert sandbox.run(deep, limits={"stack": MOST_STACK}).code == "stack_overflow"


ERRORS = [
    "unknown",
    "access-denied",
    "not-supported",
    "invalid-argument",
    "out-of-memory",
    "timeout",
    "concurrency-conflict",
    "not-in-progress",
    "would-block",
    "invalid-state",
    "new-socket-limit",
    "address-not-bindable",
    "address-in-use",
    "remote-unreachable",
    "connection-refused",
    "connection-reset",
    "connection-aborted",
    "datagram-too-large",
    "name-unresolvable",
    "temporary-resolver-failure",
    "permanent-resolver-failure",
]
"""Of wasi:sockets; the last is what it answers where no name may be looked up."""
RESOLVES = f"""(component
  (import "wasi:sockets/network@0.2.0" (instance $n
    (export "network" (type (sub resource)))
    (type $e (enum {" ".join(f'"{name}"' for name in ERRORS)})) (export "error-code" (type (eq $e)))))
  (alias export $n "network" (type $network))
  (alias export $n "error-code" (type $ec))
  (import "wasi:sockets/instance-network@0.2.0" (instance $in
    (alias outer 1 $network (type $nw)) (export "network" (type $nw2 (eq $nw)))
    (type $own (own $nw2)) (export "instance-network" (func (result $own)))))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $dns
    (alias outer 1 $network (type $nw)) (export "network" (type $nw2 (eq $nw)))
    (alias outer 1 $ec (type $ee)) (export "error-code" (type $ec2 (eq $ee)))
    (export "resolve-address-stream" (type $ras (sub resource)))
    (type $b (borrow $nw2)) (type $o (own $ras)) (type $r (result $o (error $ec2)))
    (export "resolve-addresses" (func (param "network" $b) (param "name" string) (result $r)))))
  (core module $mem (memory (export "memory") 1) (data (i32.const 64) "localhost"))
  (core instance $mi (instantiate $mem))
  (alias export $in "instance-network" (func $inf))
  (alias export $dns "resolve-addresses" (func $resf))
  (core func $inl (canon lower (func $inf)))
  (alias core export $mi "memory" (core memory $mm)) (core func $rl (canon lower (func $resf) (memory $mm)))
  (core module $m
    (import "h" "net" (func $net (result i32)))
    (import "h" "resolve" (func $res (param i32 i32 i32 i32)))
    (import "h" "memory" (memory 1))
    (func (export "run") (result i32)
       (call $res (call $net) (i32.const 64) (i32.const 9) (i32.const 128))
       (if (i32.eqz (i32.load8_u (i32.const 128))) (then (return (i32.const 0))))
       (if (i32.ne (i32.load8_u (i32.const 132)) (i32.const 20)) (then (unreachable)))
       (i32.const 1)))
  (core instance $i (instantiate $m (with "h" (instance (export "net" (func $inl)) (export "resolve" (func $rl)) (export "memory" (memory $mm))))))
  (alias core export $i "run" (core func $cr)) (func $run (result (result)) (canon lift (core func $cr)))
  (instance $ri (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $ri)))"""


def test_a_component_looks_up_no_name(sandbox):
    """It succeeds when it may, and is unreachable for any other reason not to."""
    ran = sandbox.run(RESOLVES)
    assert (ran.code, ran.answer.error) == ("guest_exit", "process exited with status 1")
