"""Stops, silence, restarts of either side: what becomes of an attempt when its proplet and the manager lose each other."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest


@pytest.fixture
def impatient(world, monkeypatch):
    monkeypatch.setattr("manager.work.leases.HEARING_S", 0.0)
    world.heartbeat_s = "0.1"
    world.settings["MANAGER_LEASE"] = "0.2"
    return world


async def test_a_stop_ends_within_two_seconds_though_the_proplet_never_confirms(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        began = time.monotonic()
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        assert (await p1.stops.get()).attempt == start.attempt
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("interrupted", "stopped")
        assert time.monotonic() - began < 2


async def test_a_stop_that_was_asked_for_survives_the_manager(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch()
            await p1.acknowledged(await p1.status(await p1.started(), "accepted"))
            await world.call("POST", f"/tasks/{task['id']}/stop")
            await p1.stops.get()
        async with world.manager():
            assert (await p1.stops.get()).id == task["id"]
            assert (await world.ended(task["id"]))["status"] == "interrupted"


async def test_a_proplet_that_missed_the_stop_is_told_when_it_says_that_it_runs_the_attempt(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        p1.bus.drop()
        await world.call("POST", f"/tasks/{task['id']}/stop")
        assert (await world.ended(task["id"]))["status"] == "interrupted"
        await p1.bus.reconnect()
        await p1.alive(start)
        stop = await asyncio.wait_for(p1.stops.get(), 10)
        assert (stop.id, stop.attempt) == (task["id"], start.attempt)


async def test_a_late_result_of_a_stopped_attempt_is_acknowledged_and_changes_nothing(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await world.call("POST", f"/tasks/{task['id']}/stop")
        await world.ended(task["id"])
        await p1.acknowledged(await p1.result(start, "late"))
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "interrupted"


async def test_a_task_whose_proplet_falls_silent_is_given_to_another_while_retries_last(impatient):
    world = impatient
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(retries=1)
        await p1.acknowledged(await p1.status(await p1.started(), "accepted"))
        p1.bus.drop()
        async with world.proplet("p2") as p2:
            beating = asyncio.create_task(_beat(p2))
            again = await p2.started()
            assert (again.id, again.attempt) == (task["id"], 2)
            await p2.result(again, "from p2")
            assert (await world.ended(task["id"]))["results"] == "from p2"
            beating.cancel()


async def test_without_retries_a_silent_proplet_keeps_its_task_until_the_deadline(impatient):
    world = impatient
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        p1.bus.drop()
        await world.until(lambda shown: not shown["alive"], "/proplets/p1")
        async with world.proplet("p2") as p2:
            await _beats(p2, 8)
            assert p2.starts.empty()
        await p1.bus.reconnect()
        await p1.result(start, "after all")
        assert (await world.ended(task["id"]))["results"] == "after all"


async def test_a_start_that_a_vanished_proplet_never_took_goes_elsewhere_though_there_are_no_retries(impatient):
    world = impatient
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        await p1.started()
        p1.bus.drop()
        async with world.proplet("p2") as p2:
            beating = asyncio.create_task(_beat(p2))
            again = await p2.started()
            assert (again.id, again.attempt) == (task["id"], 2)
            await p2.result(again, 1)
            assert (await world.ended(task["id"]))["status"] == "completed"
            beating.cancel()


async def test_an_accepted_attempt_that_its_proplet_does_not_report_is_offered_to_it_again(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await p1.acknowledged(await p1.status(start, "accepted"))
        await p1.alive()
        await p1.alive()
        again = await p1.started()
        assert (again.id, again.attempt) == (start.id, start.attempt)
        await p1.result(again, "known all along")
        assert (await world.ended(task["id"]))["attempt"] == 1


async def test_a_start_waits_for_the_first_proplet(world):
    async with world.manager():
        task = await world.launch()
        waiting = await world.until(lambda shown: "waiting" in shown, f"/tasks/{task['id']}")
        assert waiting["waiting"] == "no proplet is known yet"
        async with world.proplet("p1") as p1:
            await p1.result(await p1.started(), 1)
            assert (await world.ended(task["id"]))["status"] == "completed"


async def test_a_queued_start_survives_the_manager(world):
    async with world.manager():
        task = await world.launch()
    async with world.manager(), world.proplet("p1") as p1:
        start = await p1.started()
        assert (start.id, start.attempt) == (task["id"], 1)


async def test_what_waits_goes_out_by_priority_then_by_age(world):
    async with world.manager(), world.proplet("p1") as p1:
        busy = await world.launch()
        start = await p1.started()
        assert start.id == busy["id"]
        await p1.acknowledged(await p1.status(start, "accepted"))
        later = {}
        for name, priority in (("first", 50), ("second", 50), ("urgent", 90), ("idle", 0)):
            later[(await world.launch(name=name, priority=priority))["id"]] = name
        order = []
        for _ in range(len(later)):
            await p1.result(start, 1)
            start = await p1.started()
            order.append(later[start.id])
        assert order == ["urgent", "first", "second", "idle"]


async def test_a_broadcast_runs_on_every_proplet_and_has_a_result_for_each(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch(broadcast=True)
        for proplet in (p1, p2):
            await proplet.result(await proplet.started(), f"of {proplet.id}")
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["results"]) == ("completed", {"p1": "of p1", "p2": "of p2"})


async def test_a_daemon_begins_again_after_a_failure_until_it_is_stopped(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(daemon=True)
        start = await p1.started()
        assert (start.daemon, start.timeout_s) == (True, None)
        await p1.status(start, "accepted")
        await p1.result(start, error="exit 3", code="guest_exit")
        again = await p1.started()
        assert again.attempt == 2
        await p1.acknowledged(await p1.status(again, "accepted"))
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
        await world.call("POST", f"/tasks/{task['id']}/stop")
        await p1.result(again, error="stopped", code="stopped")
        assert (await world.ended(task["id"]))["status"] == "interrupted"


async def test_a_manager_that_ends_leaves_what_runs_alone(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch()
            await p1.acknowledged(await p1.status(await p1.started(), "accepted"))
        assert p1.stops.empty()
        async with world.manager():
            assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"


async def test_a_manager_that_is_told_to_interrupts_what_runs_when_it_ends(world):
    world.settings["MANAGER_INTERRUPT_ON_EXIT"] = "true"
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch()
            await p1.acknowledged(await p1.status(await p1.started(), "accepted"))
        assert (await p1.stops.get()).id == task["id"]
        async with world.manager():
            assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "interrupted"


async def test_a_wait_is_answered_when_the_task_ends(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        waiting = asyncio.create_task(world.call("GET", f"/tasks/{task['id']}?wait=60"))
        await p1.result(await p1.started(), "soon")
        status, shown = await asyncio.wait_for(waiting, 10)
        assert (status, shown["status"], shown["results"]) == (200, "completed", "soon")


async def _beat(proplet) -> None:
    while True:
        await proplet.alive()
        await asyncio.sleep(0.05)


async def _beats(proplet, count: int) -> None:
    for _ in range(count):
        await proplet.alive()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def reporting(proplet):
    """It says that it lives, and not what it runs."""

    async def report():
        while True:
            await proplet.alive()
            await asyncio.sleep(0.02)

    work = asyncio.create_task(report())
    try:
        yield
    finally:
        work.cancel()


async def test_a_broadcast_is_for_those_that_could_run_it(world):
    async with world.manager(), world.proplet("p1", labels={"gpu": "true"}) as p1, world.proplet("p2"):
        task = await world.launch(broadcast=True, selector={"gpu": "true"})
        await p1.result(await p1.started(), "1")
        assert (await world.ended(task["id"]))["results"] == {"p1": "1"}
        status, refused = await world.call(
            "POST",
            "/tasks",
            {"name": "t", "image_url": "registry/image:1", "start": True, "broadcast": True, "selector": {"gpu": "no"}},
        )
        assert (status, refused["code"]) == (503, "no_proplet")
        assert "lack label gpu=no" in refused["error"]


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_broadcast_does_not_wait_for_a_proplet_that_went_before_it_was_given_it(impatient, deleted):
    world = impatient
    async with world.manager(), world.proplet("p1", slots=1) as p1, reporting(p1):
        async with world.proplet("p2", slots=1) as p2, reporting(p2):
            busy = await world.launch(proplet_id="p2", timeout_s=100)
            first = await p2.started()
            task = await world.launch(broadcast=True, timeout_s=100)
            start = await p1.started()
            await p1.acknowledged(await p1.result(start, "1"))
            await p2.acknowledged(await p2.result(first, "0"))
            second = await p2.started()
            await world.ended(busy["id"])
            await p2.acknowledged(await p2.status(second, "denied", code="no_slot", reason="full"))
            p2.bus.drop()  # before it is offered to it again
        if deleted:
            await world.until(lambda shown: not shown["alive"], "/proplets/p2")
            assert (await world.call("DELETE", "/proplets/p2"))[0] == 204
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("failed", "proplet_lost")
        assert ended["results"] == {"p1": "1", "p2": None}


async def test_a_clock_that_is_set_forward_makes_nobody_silent(world):
    async with world.manager() as manager, world.proplet("p1"):
        world.ahead_s += 3600
        leases, proplet = manager.leases, manager.proplets.get("p1")
        assert leases.silent_for(proplet) < 1
        world.ahead_s -= 7200
        assert leases.silent_for(proplet) < 1


async def test_a_clock_that_is_set_back_makes_no_lease_longer(impatient, monkeypatch):
    monkeypatch.setattr("manager.work.dispatch.LEASE_GRACE_S", 0.0)
    async with impatient.manager(), impatient.proplet("p1") as p1:
        task = await impatient.launch(timeout_s=0.3, proplet_id="p1")
        await p1.started()
        impatient.ahead_s -= 3600
        assert (await impatient.ended(task["id"]))["code"] == "lease_expired"


async def test_what_a_proplet_named_before_it_vanished_is_looked_into_once(world, monkeypatch):
    monkeypatch.setattr("manager.work.leases.STRANGE_S", 0.02)
    looked: list[str] = []
    async with world.manager() as manager, world.proplet("p1") as p1:
        strangers = []
        for _ in range(2):
            task = await world.launch()
            strangers.append(await p1.started())
            await p1.acknowledged(await p1.result(strangers[-1], 1))
            await world.ended(task["id"])
        look_at = manager.leases._look_at

        async def noted(proplet_id, keys):
            looked.extend(key.task_id for key in keys)
            await look_at(proplet_id, keys)

        manager.leases._look_at = noted
        await p1.alive(strangers[0])
        await p1.alive(*strangers)
        p1.bus.drop()
        await world.until(lambda _: not manager.leases._looks and len(looked) >= 2, "/proplets/p1")
        assert sorted(looked) == sorted(start.id for start in strangers)
