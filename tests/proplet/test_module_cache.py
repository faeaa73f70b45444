"""A binary is compiled once per proplet, however many tasks and workers want it."""

from __future__ import annotations

import asyncio

from .conftest import PRINT

FUNCTIONS = 20_000


def slow_to_compile() -> str:
    body = "(i64.add (i64.mul (local.get 0) (i64.const 3)) (i64.xor (local.get 0) (i64.const {}))) "
    functions = "".join(f"(func (param i64) (result i64) {body.format(n)})" for n in range(FUNCTIONS))
    return f'(module {PRINT} (memory (export "memory") 1) (func (export "_start")) {functions})'


def compilations(logged) -> int:
    return sum("Compiled the module" in line["event"] for line in logged)


async def test_only_the_first_of_several_tasks_compiles(world, proplet, guests, logged):
    guest = guests["prints"]("x")
    for _ in range(3):
        assert (await world.manager.outcome(world.start(guest))).results == "x"
    assert compilations(logged) == 1


async def test_two_workers_that_want_a_binary_at_once_compile_it_once(world, logged):
    guest = slow_to_compile()
    async with world.proplet(PROPLET_SLOTS="2") as proplet:
        starts = [world.start(guest), world.start(guest)]
        results = await asyncio.gather(*(world.manager.outcome(start) for start in starts))
        assert [result.error for result in results] == [None, None]
        assert len(proplet.pool.processes()) >= 2
    assert compilations(logged) == 1


async def test_a_proplet_that_starts_again_finds_what_it_compiled(world, guests, logged):
    for _ in range(2):
        async with world.proplet():
            await world.manager.outcome(world.start(guests["prints"]("x")))
    assert compilations(logged) == 1
