"""A stop ends an attempt wherever it is, and one without a deadline runs until then."""

from __future__ import annotations

import asyncio

import pytest

from proplet.work import deliveries
from swashplate.messages import AttemptRef
from tests.proplet.test_delivery import learning
from tests.support.binaries import bomb

SOON = 0.5
"""Seconds."""
UNTIL_STOPPED = {"daemon": True, "timeout_s": None}


async def stopped(world, start, attempt: int = 0):
    async with asyncio.timeout(SOON):
        await world.manager.stop(start.id, attempt)
        result = await world.manager.result(start.id)
    assert (result.code, result.error, result.retryable) == ("stopped", "stopped", False)


async def stage(world, start, wanted: str) -> None:
    await world.manager.until(lambda: [p for p in world.manager.progress if (p.task_id, p.stage) == (start.id, wanted)])


async def test_while_the_binary_is_fetched(world, proplet, guests):
    world.proxy.silent = True
    start = world.start(guests["prints"](""))
    await world.manager.start(start)
    await world.proxy.until(lambda: world.proxy.requests)
    await stopped(world, start)


async def test_while_it_waits_for_a_slot(world, proplet, guests, logged):
    running, waiting = world.start(guests["loops"]), world.start(guests["prints"](""))
    await world.manager.start(running)
    await logged.until("looping")
    await world.manager.start(waiting)
    await stage(world, waiting, "waiting")
    await stopped(world, waiting)
    assert [r.task_id for r in world.manager.results] == [waiting.id]


async def test_while_it_is_compiled(world, proplet, logged):
    start = world.start(bomb(20_000))
    await world.manager.start(start)
    await stage(world, start, "compiling")
    await stopped(world, start)
    assert not any(line["event"].startswith("Compiled the module") for line in logged)


async def test_while_the_guest_runs(world, proplet, guests, logged):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await logged.until("looping")
    await stopped(world, start, 1)


async def test_while_its_update_is_brought_to_the_coordinator(world, proplet, guests, logged, monkeypatch):
    monkeypatch.setattr(deliveries, "POST_AGAIN_S", 0.02)
    async with world.site.data_store():
        start = learning(world, guests)
        await world.manager.start(start)
        await logged.until("coordinator unreachable")
        await stopped(world, start, 1)


async def test_only_the_attempt_that_is_meant(world, proplet, guests, logged):
    start = world.start(guests["loops"], attempt=2)
    await world.manager.start(start)
    await logged.until("looping")
    await world.manager.stop(start.id, 1)
    earlier = await world.manager.result(start.id)
    assert (earlier.attempt, earlier.code) == (1, "stopped")
    await world.manager.until(lambda: AttemptRef(task_id=start.id, attempt=2) in world.manager.alives[-1].running)
    await world.manager.stop(start.id, 2)
    await world.manager.until(lambda: [r for r in world.manager.results if (r.attempt, r.code) == (2, "stopped")])


async def test_a_stop_that_overtakes_its_start_is_obeyed(world, proplet, guests, logged):
    start = world.start(guests["prints"]("never"))
    await stopped(world, start, 1)
    world.manager.results.clear()
    assert (await world.manager.outcome(start)).code == "stopped"
    assert not any("Executing task" in line["event"] for line in logged)


async def test_a_daemon_runs_until_it_is_stopped_and_has_a_slot(world, proplet, guests, logged):
    daemon = world.start(guests["loops"], **UNTIL_STOPPED)
    await world.manager.start(daemon)
    await logged.until("looping")
    await world.manager.until(lambda: world.manager.alives[-1].free_slots == 0)
    other = world.start(guests["prints"]("mine"))
    await world.manager.start(other)
    await stage(world, other, "waiting")
    await stopped(world, daemon)
    assert (await world.manager.result(other.id)).results == "mine"


@pytest.mark.parametrize(("status", "code"), [(0, ""), (3, "guest_exit")])
async def test_the_end_of_a_daemon_is_reported_with_its_status(world, proplet, guests, status, code):
    guest = guests["prints"]("over", then=f"(call $exit (i32.const {status}))")
    result = await world.manager.outcome(world.start(guest, **UNTIL_STOPPED))
    assert result.code == code
    assert result.error == (f"process exited with status {status}" if status else None)


async def test_of_what_a_daemon_printed_the_last_is_its_result(world, proplet, guests):
    guest = guests["prints"]("a" * 300_000 + "end")
    result = await world.manager.outcome(world.start(guest, **UNTIL_STOPPED))
    assert (result.code, result.results[-4:]) == ("", "aend")


async def test_a_task_without_a_deadline_must_be_one_that_is_stopped(world, proplet, guests):
    start = world.start(guests["prints"](""), timeout_s=None)
    await world.manager.start(start)
    status = await world.manager.status(start.id)
    assert (status.status, status.code) == ("denied", "invalid_start")


async def test_an_earlier_attempt_that_comes_late_is_not_run(world, proplet, guests):
    later = world.start(guests["loops"], attempt=2)
    await world.manager.start(later)
    await world.manager.status(later.id)
    await world.manager.start(world.start(guests["prints"](""), id=later.id, attempt=1))
    denied = await world.manager.until(lambda: [s for s in world.manager.statuses if s.status == "denied"])
    assert (denied[0].attempt, denied[0].code) == (1, "superseded")
