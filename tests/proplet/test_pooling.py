"""One place for the memory and the tables of one guest after the other: none finds what another left there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from proplet.sandbox import pooling
from proplet.sandbox.bounds import Bounds
from tests.support.sandbox import Sandbox

MIB = 1 << 20
PAGES = 16
"""Of 64 KiB, in a MiB."""
KEEPS = """(module (memory (export "memory") 2) (data (i32.const 100) "begin") (table $t 2 1000 funcref) (elem func $f)
  (global $g (mut i32) (i32.const 0)) (func $f)
  (func (export "fill") (param i32) (result i32)
    (drop (memory.grow (local.get 0)))
    (memory.fill (i32.const 0) (i32.const 255) (i32.mul (memory.size) (i32.const 65536)))
    (drop (table.grow $t (ref.func $f) (i32.const 900)))
    (table.fill $t (i32.const 0) (ref.func $f) (table.size $t))
    (global.set $g (i32.const 1))
    (memory.size))
  (func (export "look") (param i32) (result i32) (local $at i32) (local $found i32)
    (drop (memory.grow (local.get 0)))
    (local.set $found (i32.add (global.get $g) (i32.ne (table.size $t) (i32.const 2))))
    (if (i32.ne (i32.load (i32.const 100)) (i32.const 0x69676562)) (then (local.set $found (i32.const -1))))
    (i64.store (i32.const 100) (i64.const 0))
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
    (drop (table.grow $t (ref.null func) (i32.const 900)))
    (local.set $at (i32.const 0))
    (loop $next
      (if (i32.eqz (ref.is_null (table.get $t (local.get $at)))) (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (table.size $t))))
    (local.get $found)))"""
GROWS = (
    '(module (memory (export "memory") 1) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))'
)


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(Path(tempfile.mkdtemp(prefix="pooling-")))
    yield sandbox
    sandbox.remove()


@pytest.mark.parametrize("pages", [0, 200])
def test_a_run_finds_nothing_of_the_one_before(sandbox, pages):
    assert sandbox.run(KEEPS, name="fill", inputs=[str(pages)]).answer.text == str(2 + pages)
    process = sandbox.process
    assert sandbox.run(KEEPS, name="look", inputs=[str(pages)]).answer.text == "0"
    assert sandbox.process == process


def test_a_run_with_little_memory_follows_one_that_took_most(sandbox):
    pages = pooling.MEMORY // MIB * PAGES - 1
    much, little = {"memory": pooling.MEMORY}, {"memory": MIB}
    for _ in range(2):
        assert sandbox.run(GROWS, name="grow", inputs=[str(pages)], limits=much).answer.text == "1"
        process = sandbox.process
        assert sandbox.run(GROWS, name="grow", inputs=[str(PAGES - 1)], limits=little).answer.text == "1"
        assert sandbox.run(GROWS, name="grow", inputs=[str(PAGES)], limits=little).answer.text == "-1"
        assert sandbox.process == process


def test_more_than_the_place_holds_is_had_elsewhere(sandbox):
    pages = pooling.MEMORY // MIB * PAGES
    assert (
        sandbox.run(GROWS, name="grow", inputs=[str(pages)], limits={"memory": 2 * pooling.MEMORY}).answer.text == "1"
    )
    grows = """(module (table $t 0 funcref) (func (export "grow") (param i32) (result i32)
      (table.grow $t (ref.null func) (local.get 0))))"""
    wanted = str(pooling.ELEMENTS + 1)
    assert (
        sandbox.run(grows, name="grow", inputs=[wanted], limits={"table_elements": pooling.ELEMENTS + 1}).answer.text
        == "0"
    )
    assert sandbox.run(grows, name="grow", inputs=[wanted]).answer.text == "-1"


def test_a_table_that_begins_larger_than_the_place_has_is_too_large_only_where_a_task_may_not_have_it(sandbox):
    larger = f'(module (table {pooling.ELEMENTS + 1} funcref) (func (export "_start")))'
    allowing = Bounds(table_elements=2 * pooling.ELEMENTS)
    assert sandbox.run(larger, bounds=allowing).code == "table_limit"
    assert not sandbox.run(larger, bounds=allowing, limits={"table_elements": 2 * pooling.ELEMENTS}).answer.error
    assert sandbox.run(larger, bounds=allowing).code == "table_limit"


def test_a_module_with_as_many_tables_as_are_allowed_runs(sandbox):
    assert not sandbox.run(f'(module {"(table 1 funcref)" * pooling.TABLES} (func (export "_start")))').answer.error


def test_a_module_with_a_large_instance_runs(sandbox):
    many = "(global (mut i64) (i64.const 1))" * 150_000
    assert not sandbox.run(f'(module {many} (func (export "_start")))').answer.error
