"""Every limit of one run: what ends it, under which code, and with which numbers."""

from __future__ import annotations

import pytest

from tests.support.sandbox import Sandbox

MEGABYTE = 1 << 20
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
SPIN = '(module (func (export "_start") (loop (br 0))))'
SLEEP = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 100000000000))
    (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))))"""


def writes(to: int, length: int, times: int) -> str:
    return f"""(module {WRITE} (memory (export "memory") 2)
      (func (export "_start") (local $i i32)
        (i32.store (i32.const 4) (i32.const {length}))
        (loop $again
          (drop (call $write (i32.const {to}) (i32.const 0) (i32.const 1) (i32.const 20)))
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {times}))))))"""


def grows(by: int, then: str) -> str:
    """Takes memory until it gets no more, ``by`` times as much each time or, with 0, a page; then does ``then``."""
    step = f"(i32.mul (memory.size) (i32.const {by - 1}))" if by else "(i32.const 1)"
    return f"""(module {EXIT} (memory (export "memory") 1)
      (func (export "_start")
        (loop $again (br_if $again (i32.ne (memory.grow {step}) (i32.const -1)))) {then}))"""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.remove()


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("unreachable", "trap:unreachable", "unreachable"),
        ("(drop (i32.load (i32.const -1)))", "trap:out_of_bounds", "out of bounds memory access"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "trap:integer_divide_by_zero", "integer divide by zero"),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", "trap:integer_overflow", "integer overflow"),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", "trap:invalid_conversion", "invalid conversion"),
        ("(call_indirect (type $f) (i32.const 0))", "trap:indirect_call_to_null", "uninitialized element"),
        ("(call_indirect (type $f) (i32.const 7))", "trap:table_out_of_bounds", "out of bounds table access"),
        ("(call_indirect (type $g) (i32.const 1) (i32.const 1))", "trap:indirect_call_type", "type mismatch"),
        (
            "(call $write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 0)) drop",
            "trap:out_of_bounds",
            "Pointer",
        ),
    ],
)
def test_a_trap_is_told_with_its_reason(sandbox, body, code, words):
    guest = f"""(module {WRITE} (type $f (func)) (type $g (func (param i32))) (memory (export "memory") 1)
      (table 2 funcref) (elem (i32.const 1) $start)
      (func $start (export "_start") {body}))"""
    ran = sandbox.run(guest)
    assert (ran.code, ran.answer.reusable) == (code, False)
    assert words in ran.answer.error


@pytest.mark.parametrize("by", [0, 2, 3])
def test_a_guest_that_ends_for_want_of_memory_is_over_the_limit_of_memory(sandbox, by):
    ran = sandbox.run(grows(by, "unreachable"), limits={"memory": 2 * MEGABYTE})
    assert ran.code == "memory_limit"
    assert f"had grown to {int(ran.used['memory_bytes'])} of the 2097152 bytes allowed" in ran.answer.error


def test_a_guest_that_traps_with_memory_to_spare_is_not(sandbox):
    spare = (
        '(module (memory (export "memory") 1) (func (export "_start") (drop (memory.grow (i32.const 9))) unreachable))'
    )
    assert sandbox.run(spare, limits={"memory": 2 * MEGABYTE}).code == "trap:unreachable"
    born_large = '(module (memory (export "memory") 30) (func (export "_start") unreachable))'
    assert sandbox.run(born_large, limits={"memory": 2 * MEGABYTE}).code == "trap:unreachable"


def test_a_guest_that_copes_with_little_memory_succeeds(sandbox):
    ran = sandbox.run(grows(0, ""), limits={"memory": 2 * MEGABYTE})
    assert (ran.answer.error, ran.used["memory_bytes"]) == ("", 2 * MEGABYTE)


def test_an_exit_status_is_the_guests_own_word_and_the_memory_is_told_beside_it(sandbox):
    ran = sandbox.run(grows(0, "(call $exit (i32.const 3))"), limits={"memory": 2 * MEGABYTE})
    assert ran.code == "guest_exit"
    assert "status 3, after its memory had grown to 2097152 of the 2097152 bytes allowed" in ran.answer.error


@pytest.mark.parametrize(
    ("declared", "code", "words"),
    [
        ("(memory 33)", "memory_limit", "2097152 bytes are allowed"),
        ("(table 1001 funcref)", "table_limit", "1000 elements are allowed"),
        ("(table 1 funcref)" * 9, "table_limit", "8 are allowed"),
    ],
)
def test_a_module_that_begins_over_a_limit_does_not_begin(sandbox, declared, code, words):
    guest = f'(module {declared} (func (export "_start")))'
    ran = sandbox.run(guest, limits={"memory": 2 * MEGABYTE, "table_elements": 1000})
    assert ran.code == code
    assert words in ran.answer.error


def test_a_table_stops_growing_at_the_limit(sandbox):
    guest = """(module (table $t 1 funcref) (func (export "grow") (param i32) (result i32)
      (table.grow $t (ref.null func) (local.get 0))))"""
    limits = {"table_elements": 1000}
    assert sandbox.run(guest, name="grow", inputs=["999"], limits=limits).answer.text == "1"
    assert sandbox.run(guest, name="grow", inputs=["1000"], limits=limits).answer.text == "-1"


def grows_a_table(by: int, then: str, export: str = '(export "t")') -> str:
    grown = f"(table.grow $t (ref.null func) (i32.const {by}))"
    return f"""(module (table $t {export} 8 funcref) (func (export "_start")
      (loop $again (br_if $again (i32.ne {grown} (i32.const -1)))) {then}))"""


@pytest.mark.parametrize("then", ["unreachable", "(drop (table.get $t (i32.const 1000)))"])
def test_a_guest_that_ends_for_want_of_a_larger_table_is_over_the_limit_of_tables(sandbox, then):
    ran = sandbox.run(grows_a_table(100, then), limits={"table_elements": 1000})
    assert (ran.code, ran.used["table_elements"]) == ("table_limit", 908)
    assert "its table had grown to 908 of the 1000 elements allowed" in ran.answer.error


def test_a_table_that_did_not_grow_or_is_not_shown_is_not_to_blame(sandbox):
    for guest in (grows_a_table(1000, "unreachable"), grows_a_table(100, "unreachable", export="")):
        assert sandbox.run(guest, limits={"table_elements": 1000}).code == "trap:unreachable"
    coping = sandbox.run(grows_a_table(100, ""), limits={"table_elements": 1000})
    assert (coping.answer.error, "table_elements" in coping.used) == ("", False)


def test_endless_recursion_ends_at_the_limit_of_the_stack(sandbox):
    ran = sandbox.run('(module (func $f (export "_start") (call $f)))', limits={"stack": 65536})
    assert ran.code == "stack_overflow"
    assert "65536 bytes of stack are allowed" in ran.answer.error


def test_more_stack_is_more_depth(sandbox):
    dives = """(module (func $down (export "down") (param i32) (result i32)
      (if (result i32) (local.get 0)
        (then (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
        (else (i32.const 0)))))"""
    asked = {"name": "down", "inputs": ["5000"]}
    assert sandbox.run(dives, **asked, limits={"stack": 65536}).code == "stack_overflow"
    assert sandbox.run(dives, **asked, limits={"stack": 1 << 20}).answer.text == "5000"


def test_fuel_is_counted_when_it_is_given_and_ends_with_it(sandbox):
    ran = sandbox.run(SPIN, limits={"fuel": 100_000})
    assert (ran.code, ran.used["fuel"]) == ("fuel_exhausted", 100_000)
    assert "100000 units are allowed" in ran.answer.error
    add = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'
    ran = sandbox.run(add, name="add", inputs=["1", "2"], limits={"fuel": 100_000})
    assert ran.answer.text == "3"
    assert 0 < ran.used["fuel"] < 100


@pytest.mark.parametrize("guest", [SPIN, SLEEP, '(module (func $s (loop (br 0))) (start $s) (func (export "_start")))'])
def test_a_run_ends_at_its_deadline(sandbox, guest):
    ran = sandbox.run(guest, limits={"wall_s": 0.1})
    assert (ran.code, ran.answer.reusable) == ("deadline", False)
    assert "0.1 s is allowed" in ran.answer.error
    assert 0.1 < ran.used["wall_s"] < 2


def test_processor_time_has_a_limit_of_its_own(sandbox):
    ran = sandbox.run(SPIN, limits={"cpu_s": 0.1})
    assert ran.code == "cpu_limit"
    assert "0.1 s is allowed" in ran.answer.error
    assert 0.1 < ran.used["cpu_s"] < 0.2
    asleep = sandbox.run(SLEEP, limits={"cpu_s": 0.1, "wall_s": 0.3})
    assert asleep.code == "deadline"
    assert asleep.used["cpu_s"] < 0.1


def test_a_short_run_over_its_time_is_over_its_time(sandbox):
    ran = sandbox.run(writes(1, 1, 1), limits={"wall_s": 1e-6})
    assert ran.code == "deadline"


def test_output_over_the_limit_ends_a_run_and_the_numbers_are_told(sandbox):
    ran = sandbox.run(writes(1, 65536, 1 << 30), limits={"output": MEGABYTE})
    assert (ran.code, ran.used["output_bytes"]) == ("output_limit", MEGABYTE + 1)
    assert ran.answer.error == "the output of 1048577 bytes is over the limit of 1048576 bytes"
    ended = sandbox.run(writes(1, 65536, 17), limits={"output": MEGABYTE})
    assert ended.code == "output_limit"


def test_stderr_over_the_limit_is_dropped_and_counted(sandbox):
    ran = sandbox.run(writes(2, 65536, 64), limits={"log": 100_000})
    assert (ran.answer.error, len(ran.log)) == ("", 100_001)
    assert ran.used["log_bytes"] == 64 * 65536


def test_what_a_run_used_is_told_also_when_it_succeeds(sandbox):
    ran = sandbox.run(writes(1, 10, 5))
    assert ran.answer.error == ""
    assert set(ran.used) == {"wall_s", "cpu_s", "memory_bytes", "output_bytes", "output_files", "log_bytes"}
    assert (ran.used["memory_bytes"], ran.used["output_bytes"], ran.used["output_files"]) == (131072, 50, 0)
    assert 0 < ran.used["wall_s"] < 1


def test_a_guest_that_a_limit_ended_does_not_end_the_next(sandbox):
    assert sandbox.run(SPIN, limits={"wall_s": 0.05}).code == "deadline"
    assert sandbox.run(writes(1, 3, 1)).stdout == b"\0\0\0"


ENDINGS = {
    "exit": "(call $exit (i32.const 1))",
    "success": "(call $exit (i32.const 0))",
    "trap": "unreachable",
    "return": "",
}


@pytest.mark.parametrize("terms", [{}, {"deterministic": True}])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_guests_memory_is_given_back_before_the_next_run(sandbox, ending, terms):
    """The process may have one such memory and a GiB, not five."""
    guest = f"""(module {EXIT} (memory (export "memory") 8000)
      (func (export "_start") (memory.fill (i32.const 0) (i32.const 1) (i32.const 100)) {ENDINGS[ending]}))"""
    codes = {sandbox.run(guest, limits={"memory": 512 * MEGABYTE}, **terms).code for _ in range(5)}
    assert codes == {{"exit": "guest_exit", "trap": "trap:unreachable"}.get(ending, "")}
