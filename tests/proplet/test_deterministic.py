"""Runs that give the same bytes on any machine, and runs without a clock or random numbers."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from pathlib import Path

import pytest

from proplet.sandbox.preview1.clock import START_NS, STEP_NS
from tests.support.sandbox import Sandbox, errno_of, escaped

WASI = "wasi_snapshot_preview1"
NOMEM, NOTSUP = 48, 58
MEMORY = Path("/dev/shm")  # a file system other than that of the temporary folder

IMPORTS = f"""
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (import "{WASI}" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
  (import "{WASI}" "clock_res_get" (func $resolution (param i32 i32) (result i32)))
  (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "random_get" (func $random (param i32 i32) (result i32)))
  (import "{WASI}" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "{WASI}" "fd_filestat_get" (func $status (param i32 i32) (result i32)))
  (import "{WASI}" "path_filestat_get" (func $status_at (param i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
"""


def guest(*steps: str, data: str = "") -> str:
    """Does the steps, each of which leaves an errno, and prints the 16 KiB from 4096 on; exits with the first error."""
    checked = "\n".join(f"(call $check {step})" for step in steps)
    return f"""(module {IMPORTS} (memory (export "memory") 2) {data}
      (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
      (func (export "_start")
        {checked}
        (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 16384))
        (call $check (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"""


def now(clock: int, at: int) -> str:
    return f"(call $now (i32.const {clock}) (i64.const 1) (i32.const {at}))"


def sleeps(ns: int, *, at: int = 8192) -> str:
    return f"""(block (result i32)
      (i32.store (i32.const 1016) (i32.const 1)) (i64.store (i32.const 1024) (i64.const {ns}))
      (call $poll (i32.const 1000) (i32.const {at}) (i32.const 1) (i32.const {at + 100})))"""


CLOCK = [now(0, 4096), now(1, 4104), sleeps(10**15), now(1, 4112), "(call $resolution (i32.const 0) (i32.const 4120))"]
RANDOM = ["(call $random (i32.const 4200) (i32.const 10))", "(call $random (i32.const 4210) (i32.const 5000))"]
NAME = "b/inner"
FILES = [
    "(call $list (i32.const 3) (i32.const 10000) (i32.const 100) (i64.const 0) (i32.const 9992))",
    "(call $list (i32.const 3) (i32.const 10100) (i32.const 2000) (i64.const 0) (i32.const 9996))",
    "(call $list (i32.const 3) (i32.const 12200) (i32.const 2000) (i64.const 3) (i32.const 12196))",
    "(call $status (i32.const 3) (i32.const 14400))",
    "(call $status (i32.const 1) (i32.const 14464))",
    f"(call $status_at (i32.const 3) (i32.const 0) (i32.const 500) (i32.const {len(NAME)}) (i32.const 14528))",
    f"""(call $open (i32.const 3) (i32.const 0) (i32.const 500) (i32.const {len(NAME)}) (i32.const 0) (i64.const 0x200000)
      (i64.const 0) (i32.const 0) (i32.const 14600))""",
    "(call $status (i32.load (i32.const 14600)) (i32.const 14608))",
]
EVERYTHING = guest(*CLOCK, *RANDOM, *FILES, data=f'(data (i32.const 500) "{escaped(NAME)}")')
GIVEN = {"z": b"zz", "b/inner": b"inner", "a": b"", **{f"file-{at}": b"x" * at for at in range(20)}}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.remove()


@pytest.fixture(scope="module")
def elsewhere():
    """Another process, with another environment, and with its folders on another file system."""
    sandbox = Sandbox(Path(tempfile.mkdtemp(dir=MEMORY)), {"LANG": "tr_TR", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"})
    yield sandbox
    sandbox.remove()


def test_the_same_binary_and_inputs_give_the_same_bytes_elsewhere(sandbox, elsewhere):
    first = sandbox.run(EVERYTHING, deterministic=True, seed=5, given=GIVEN)
    second = elsewhere.run(EVERYTHING, deterministic=True, seed=5, given=dict(reversed(GIVEN.items())))
    assert sandbox.root.stat().st_dev != elsewhere.root.stat().st_dev
    assert (first.answer.error, len(first.stdout)) == ("", 16384)
    assert first.stdout == second.stdout
    assert first.answer.inputs_digest == second.answer.inputs_digest != ""
    assert first.answer.output_digest == second.answer.output_digest != ""


def test_without_the_switch_they_differ(sandbox, elsewhere):
    ran = [place.run(EVERYTHING.replace(str(10**15), "1"), given=GIVEN) for place in (sandbox, elsewhere)]
    assert [one.answer.error for one in ran] == ["", ""]
    assert ran[0].stdout != ran[1].stdout
    assert ran[0].answer.inputs_digest == ran[0].answer.output_digest == ""


def test_the_clock_starts_at_a_fixed_moment_and_a_sleep_costs_nothing(sandbox):
    ran = sandbox.run(guest(*CLOCK), deterministic=True)
    assert struct.unpack_from("<4Q", ran.stdout) == (START_NS, STEP_NS, 2 * STEP_NS + 10**15, STEP_NS)
    assert ran.used["wall_s"] < 5


def test_a_loop_that_waits_for_a_time_ends(sandbox):
    waits = f"""(module {IMPORTS} (memory (export "memory") 1) (func (export "_start")
      (loop $again {now(0, 0)} drop
        (br_if $again (i64.lt_u (i64.load (i32.const 0)) (i64.const {START_NS + 1000 * STEP_NS}))))))"""
    assert sandbox.run(waits, deterministic=True).answer.error == ""


def test_a_sleep_until_a_moment_and_a_file_that_is_ready(sandbox):
    until = f"""(block (result i32)
      (i64.store (i32.const 1000) (i64.const 7)) (i32.store (i32.const 1016) (i32.const 0))
      (i64.store (i32.const 1024) (i64.const {START_NS + 5 * 10**9})) (i32.store16 (i32.const 1040) (i32.const 1))
      (call $poll (i32.const 1000) (i32.const 8192) (i32.const 1) (i32.const 8300)))"""
    ready = """(block (result i32)
      (i64.store (i32.const 1048) (i64.const 9)) (i32.store8 (i32.const 1056) (i32.const 2))
      (i32.store (i32.const 1064) (i32.const 1))
      (i64.store (i32.const 1024) (i64.const 9000000000000000000))
      (call $poll (i32.const 1000) (i32.const 8400) (i32.const 2) (i32.const 8500)))"""
    out = sandbox.run(guest(until, now(1, 4096), ready), deterministic=True).stdout
    assert struct.unpack_from("<QHB", out, 4096) == (7, 0, 0)
    assert struct.unpack_from("<I", out, 8300 - 4096) == (1,)
    assert struct.unpack_from("<Q", out) == (5 * 10**9,)
    assert struct.unpack_from("<QHB", out, 8400 - 4096) == (9, 0, 2)
    assert struct.unpack_from("<I", out, 8500 - 4096) == (1,)


def test_a_flood_of_subscriptions_is_refused_rather_than_paid_for(sandbox):
    ran = sandbox.run(
        guest("(call $poll (i32.const 0) (i32.const 100) (i32.const 20000) (i32.const 200))"), deterministic=True
    )
    assert errno_of(ran) == NOMEM


def test_random_bytes_are_the_documented_stream_of_the_seed(sandbox):
    stream = b"".join(
        hashlib.shake_256(b"swashplate deterministic random 1" + struct.pack("<QQ", 5, block)).digest(4096)
        for block in range(2)
    )
    ran = sandbox.run(guest(*RANDOM), deterministic=True, seed=5)
    assert ran.stdout[104 : 104 + 5010] == stream[:5010]
    assert sandbox.run(guest(*RANDOM), deterministic=True, seed=6).stdout != ran.stdout


def entries(listing: bytes) -> list[tuple[int, str]]:
    """The cookie and the name of each whole entry."""
    found, at = [], 0
    while (header := struct.unpack_from("<QQIB", listing, at))[0]:
        cookie, _, length, _ = header
        found.append((cookie, listing[at + 24 : at + 24 + length].decode()))
        at += 24 + length
    return found


def test_a_directory_is_listed_in_the_order_of_its_names_also_in_pieces(sandbox):
    given = {f"{at:03d}-{'x' * 200}": b"" for at in reversed(range(400))}  # more than wasmtime lists at once
    names = list(enumerate([".", "..", *sorted(given)], 1))
    for after, until in ((0, 60), (300, 360), (380, 402)):
        room = sum(24 + len(name) for _, name in names[after:until])
        lists = f"(call $list (i32.const 3) (i32.const 4096) (i32.const {room}) (i64.const {after}) (i32.const 4000))"
        listing = sandbox.run(guest(lists), deterministic=True, given=given).stdout
        assert entries(listing) == names[after:until]


def test_a_file_says_neither_when_nor_where_it_is_and_only_itself_is_equal_to_it(sandbox):
    out = sandbox.run(EVERYTHING, deterministic=True, given=GIVEN).stdout
    status = struct.Struct("<QQB7xQQQQQ")
    folder, stdout, by_path, by_handle = (status.unpack_from(out, at - 4096) for at in (14400, 14464, 14528, 14608))
    assert by_path == by_handle
    assert (by_path[0], *by_path[2:]) == (0, 4, 1, 5, START_NS, START_NS, START_NS)
    assert (folder[2], folder[4]) == (3, 0)
    assert len({folder[1], stdout[1], by_path[1]}) == 3


def test_the_digests_tell_inputs_and_outputs_apart(sandbox):
    def digests(**changed):
        asked = {"seed": 1, "given": {"a": b"1"}, "env": {"A": "1"}, "inputs": ["x"], **changed}
        answer = sandbox.run(guest(*RANDOM), deterministic=True, **asked).answer
        return answer.inputs_digest, answer.output_digest

    first = digests()
    assert digests() == first
    for changed in ({"given": {"a": b"2"}}, {"given": {"b": b"1"}}, {"env": {"A": "2"}}, {"inputs": ["y"]}):
        inputs, output = digests(**changed)
        assert (inputs != first[0], output) == (True, first[1])
    assert [one != other for one, other in zip(digests(seed=2), first, strict=True)] == [True, True]


def test_the_bits_of_no_number_are_canonical(sandbox):
    bits = """(module (func (export "bits") (param f64 f64) (result i64)
      (i64.reinterpret_f64 (f64.div (local.get 0) (local.get 1)))))"""
    ran = sandbox.run(bits, name="bits", inputs=["0", "0"], deterministic=True)
    assert int(ran.answer.text or "") == 0x7FF8000000000000


def test_relaxed_instructions_are_refused(sandbox):
    relaxed = """(module (func (export "_start")
      (drop (f32x4.relaxed_madd (v128.const i64x2 0 0) (v128.const i64x2 0 0) (v128.const i64x2 0 0)))))"""
    assert sandbox.run(relaxed).answer.error == ""
    assert sandbox.run(relaxed, deterministic=True).code == "guest_invalid"


@pytest.mark.parametrize("step", [now(0, 4096), CLOCK[-1], sleeps(1)])
def test_a_clock_that_was_taken_away_is_not_supported(sandbox, step):
    ran = sandbox.run(guest(step), clock=False)
    assert (ran.code, errno_of(ran)) == ("capability_refused", NOTSUP)
    assert "the guest had asked for the clock" in ran.answer.error
    assert sandbox.run(guest(step)).answer.error == ""


def test_the_times_of_files_are_no_clock_either(sandbox):
    out = sandbox.run(guest("(call $status (i32.const 4) (i32.const 4096))"), clock=False).stdout
    assert struct.unpack_from("<3Q", out, 40) == (START_NS,) * 3


def test_random_numbers_that_were_taken_away_are_not_supported(sandbox):
    ran = sandbox.run(guest(RANDOM[0]), random=False)
    assert (ran.code, errno_of(ran)) == ("capability_refused", NOTSUP)
    assert "the guest had asked for random numbers" in ran.answer.error


def test_a_guest_that_copes_without_succeeds(sandbox):
    copes = guest(f"(i32.sub {RANDOM[0]} (i32.const {NOTSUP}))", f"(i32.sub {now(0, 4096)} (i32.const {NOTSUP}))")
    assert sandbox.run(copes, random=False, clock=False).answer.error == ""
    assert sandbox.run(copes, random=False, clock=False, deterministic=True).answer.error == ""


def test_a_pointer_beside_the_memory_is_a_trap_as_with_wasmtimes_own(sandbox):
    for step in (
        now(0, -4),
        "(call $random (i32.const 131070) (i32.const 9))",
        "(call $status (i32.const 3) (i32.const -1))",
    ):
        assert sandbox.run(guest(step), deterministic=True).code == "trap:out_of_bounds"
        assert sandbox.run(guest(step)).code == "trap:out_of_bounds"


COMPONENT = """(component
  (core module $m (func (export "run") (result i32) i32.const 0))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $exported)))"""


@pytest.mark.parametrize("terms", [{"deterministic": True}, {"clock": False}, {"random": False}])
def test_a_component_cannot_have_any_of_it(sandbox, terms):
    assert sandbox.run(COMPONENT).answer.error == ""
    assert sandbox.run(COMPONENT, **terms).code == "unsupported_for_components"
