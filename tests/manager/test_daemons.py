"""Daemons: they run until they are stopped, and after every other end their restart policy decides."""

import asyncio

import pytest

from manager.work import runs

FAILED = {"error": "exit code 3", "code": "guest_exit"}
DONE = {"results": "bye"}


async def daemon(world, **fields):
    return await world.launch(daemon=True, **fields)


async def accepted(p1):
    start = await p1.started()
    await p1.acknowledged(await p1.status(start, "accepted"))
    return start


async def test_a_daemon_has_no_deadline(world, monkeypatch):
    monkeypatch.setattr("manager.work.dispatch.LEASE_GRACE_S", 0.0)
    async with world.manager(), world.proplet("p1") as p1:
        task = await daemon(world, timeout_s=0.01)
        start = await accepted(p1)
        assert (start.daemon, start.timeout_s) == (True, None)
        shorter = await world.launch(
            timeout_s=0.1, proplet_id="p1"
        )  # would begin after the daemon's deadline, had it one
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
        await world.call("POST", f"/tasks/{shorter['id']}/stop")


@pytest.mark.parametrize(
    ("restart", "end", "status"),
    [("never", DONE, "completed"), ("never", FAILED, "failed"), ("on_failure", DONE, "completed")],
)
async def test_an_end_that_the_policy_takes_as_one_ends_the_task(world, restart, end, status):
    async with world.manager(), world.proplet("p1") as p1:
        task = await daemon(world, restart=restart)
        await p1.result(await accepted(p1), **end)
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["attempt"]) == (status, 1)
        assert p1.starts.empty()


@pytest.mark.parametrize(("restart", "end"), [("on_failure", FAILED), ("always", FAILED), ("always", DONE)])
async def test_an_end_that_the_policy_does_not_take_is_reported_and_followed(world, restart, end):
    async with world.manager(), world.proplet("p1") as p1:
        task = await daemon(world, restart=restart)
        for attempt in (1, 2):
            start = await accepted(p1)
            assert start.attempt == attempt
            await p1.result(start, **end)
        assert (await accepted(p1)).attempt == 3
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
        _, found = await world.call("GET", f"/tasks/{task['id']}/attempts")
        shown = [(each["status"], each.get("error"), each.get("results")) for each in found["attempts"]]
        exits = ("failed", "exit code 3", None) if end is FAILED else ("completed", None, "bye")
        assert shown == [exits, exits, ("accepted", None, None)]


async def test_each_restart_waits_longer_and_says_so(world, monkeypatch):
    monkeypatch.setattr(runs, "retry_delay", lambda retry, _most=0: (0.0, 0.0, 3600.0)[retry])
    async with world.manager(), world.proplet("p1") as p1:
        task = await daemon(world, restart="always")
        for _ in range(3):
            await p1.result(await accepted(p1), **DONE)
        shown = await world.until(lambda shown: "waiting" in shown, f"/tasks/{task['id']}")
        assert shown["waiting"].startswith("the next attempt begins in 3")
        assert p1.starts.empty()
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        assert (await world.ended(task["id"]))["status"] == "interrupted"


async def test_a_daemon_that_waits_for_its_restart_does_so_over_a_restart_of_the_manager(world, monkeypatch):
    monkeypatch.setattr(runs, "retry_delay", lambda _retry, _most=0: 0.3)
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await daemon(world)
            await p1.acknowledged(await p1.result(await accepted(p1), **FAILED))
            await world.until(lambda shown: shown["attempt"] == 2, f"/tasks/{task['id']}")
        async with world.manager():
            await p1.register()
            start = await accepted(p1)
            assert (start.id, start.attempt) == (task["id"], 2)


async def test_a_daemon_keeps_running_over_a_restart_of_the_manager(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await daemon(world)
            start = await accepted(p1)
        async with world.manager():
            await p1.register()
            await p1.alive(start)
            assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
            assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
            await p1.stopped()
            assert (await world.ended(task["id"]))["status"] == "interrupted"
            assert p1.starts.empty()


async def test_a_daemon_begins_again_after_a_restart_of_its_proplet(world):
    async with world.manager(), world.proplet("p1") as p1:
        await daemon(world)
        lost = {"error": "the proplet restarted", "code": "proplet_restarted", "retryable": True}
        await p1.result(await accepted(p1), **lost)
        assert (await accepted(p1)).attempt == 2


async def test_a_daemon_on_every_proplet_restarts_where_it_ended(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await daemon(world, broadcast=True)
        on_p1 = await accepted(p1)
        await accepted(p2)
        await p1.result(on_p1, **FAILED)
        assert (await accepted(p1)).attempt == 3
        assert p2.starts.empty()
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        stops = await asyncio.gather(p1.stopped(), p2.stopped())
        assert [stop.attempt for stop in stops] == [3, 2]
        assert (await world.ended(task["id"]))["status"] == "interrupted"


@pytest.mark.parametrize("fields", [{"daemon": True, "restart": "always"}, {}])
async def test_what_was_stopped_while_its_proplet_restarted_was_interrupted(world, fields):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(**fields)
        start = await accepted(p1)
        await world.call("POST", f"/tasks/{task['id']}/stop")
        assert (await p1.stops.get()).id == task["id"]
        await p1.result(start, error="the proplet restarted", code="proplet_restarted", retryable=True)
        assert (await world.ended(task["id"]))["status"] == "interrupted"
        assert p1.starts.empty()
