"""Proplets as their keeper sees them: cordoned, drained, deleted, described, and with the times of their reports."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from manager.fleet.proplet import HISTORY, Proplet
from manager.fleet.proplets import Proplets
from manager.state.tables import SCHEMA
from swashplate.bus import MemoryBroker, MemoryBus
from swashplate.database import Database, sqlite_url
from swashplate.messages import Alive, Announce, Capabilities, PropletCreate, Start
from tests.manager.conftest import DIGEST, NAMES


async def change(world, what, proplet_id="p1"):
    status, body = await world.call("POST", f"/proplets/{proplet_id}/{what}")
    assert status == 200, body
    return body


async def accepted(proplet):
    start = await proplet.started()
    await proplet.acknowledged(await proplet.status(start, "accepted"))
    return start


async def test_a_cordoned_proplet_gets_nothing_new_and_keeps_what_it_has(world):
    async with world.manager(), world.proplet("p1", slots=2) as p1:
        kept = await world.launch()
        start = await accepted(p1)
        assert await change(world, "cordon") == {"id": "p1", "cordoned": True, "draining": False, "task_count": 1}
        waits = await world.launch()
        shown = await world.until(lambda shown: "waiting" in shown, f"/tasks/{waits['id']}")
        assert shown["waiting"] == "the only proplet is cordoned"
        await p1.acknowledged(await p1.result(start, "done"))
        assert (await world.ended(kept["id"]))["status"] == "completed"
        assert p1.starts.empty()
        assert (await change(world, "uncordon"))["cordoned"] is False
        assert (await p1.started()).id == waits["id"]


async def test_a_cordon_survives_the_manager_and_a_connect_of_the_proplet(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            await change(world, "drain")
        async with world.manager():
            await p1.register()
            shown = await world.until(lambda shown: shown["alive"], "/proplets/p1")
            assert (shown["cordoned"], shown["draining"]) == (True, True)


async def test_an_endless_name_is_cut_where_it_is_shown(world):
    async with world.manager(), world.proplet("p1") as p1:
        create = PropletCreate(proplet_id="p1", instance="i", metadata={"name": "n" * 5000})
        await p1.bus.publish(NAMES.proplet("p1", "create"), create.encode())
        shown = await world.until(lambda shown: shown["name"] != "proplet-p1", "/proplets/p1")
        assert shown["name"] == "n" * 64


@pytest.mark.parametrize("what", [{"daemon": True}, {"daemon": True, "restart": "never"}, {"latent": True}])
async def test_a_drained_proplet_hands_its_standing_tasks_on(world, what):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(**what)
        await (p1.deployed() if "latent" in what else accepted(p1))
        async with world.proplet("p2") as p2:
            assert (await change(world, "drain"))["draining"] is True
            assert (await p1.stopped()).attempt == 1
            again = await p2.started()
            assert (again.id, again.attempt) == (task["id"], 2)
            await world.until(lambda shown: shown["task_count"] == 0, "/proplets/p1")
            await p2.acknowledged(await p2.status(again, "accepted"))
            assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"


async def test_a_drain_lets_finite_tasks_end(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch(proplet_id="p1")
        start = await accepted(p1)
        assert (await change(world, "drain"))["task_count"] == 1
        await p1.alive(start)
        await p1.acknowledged(await p1.result(start, "done"))
        assert (await world.ended(task["id"]))["attempt"] == 1
        assert (await world.call("GET", "/proplets/p1"))[1]["task_count"] == 0
        assert p1.stops.empty()
        assert p2.starts.empty()


async def test_a_pinned_daemon_waits_for_the_end_of_the_drain(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch(proplet_id="p1", daemon=True)
        await accepted(p1)
        await change(world, "drain")
        await p1.stopped()
        shown = await world.until(lambda shown: "waiting" in shown, f"/tasks/{task['id']}")
        assert shown["waiting"] == "proplet p1 is cordoned"
        await change(world, "uncordon")
        assert (await p1.started()).attempt == 2
        assert p2.starts.empty()


async def test_a_drain_goes_on_after_a_restart_of_the_manager(world):
    async with world.proplet_known("p1") as p1, world.proplet_known("p2") as p2:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            task = await world.launch(daemon=True)
            start = await accepted(p1)
            await change(world, "drain")
            await asyncio.wait_for(p1.stops.get(), 10)  # and it does not obey
        async with world.manager():
            await p1.register()
            await p2.register()
            reporting = asyncio.create_task(report(p1, start))
            await p1.stopped()
            reporting.cancel()
            again = await p2.started()
            assert (again.id, again.attempt) == (task["id"], 2)


async def report(proplet, *running):
    """As often as a heartbeat of 20 ms makes it."""
    while True:
        await proplet.alive(*running)
        await asyncio.sleep(0.02)


async def test_a_drain_waits_for_the_calls_that_run_and_new_ones_go_elsewhere(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(latent=True)
        await p1.deployed()
        invoke = {"async": True}
        assert (await world.call("POST", f"/tasks/{task['id']}/invoke", invoke))[0] == 202
        running = await p1.invoked()
        await change(world, "drain")
        async with world.proplet("p2") as p2:
            assert (await world.call("POST", f"/tasks/{task['id']}/invoke", invoke))[0] == 202
            await p1.alive()
            assert p1.stops.empty()
            await p1.acknowledged(await p1.invoke_result(running, "finished here"))
            await p1.stopped()
            await p2.deployed()
            elsewhere = await p2.invoked()
            await p2.acknowledged(await p2.invoke_result(elsewhere, "done there"))
        _, page = await world.call("GET", f"/tasks/{task['id']}/invocations")
        assert [each["proplet_id"] for each in page["invocations"]] == ["p2", "p1"]
        assert [each["status"] for each in page["invocations"]] == ["completed"] * 2
        assert p1.invokes.empty()


async def test_unknown_proplets_are_404(world):
    async with world.manager():
        for method, path in (
            ("DELETE", "/proplets/x"),
            ("POST", "/proplets/x/cordon"),
            ("POST", "/proplets/x/drain"),
            ("POST", "/proplets/x/uncordon"),
            ("GET", "/proplets/x/sdf"),
            ("GET", "/proplets/x/alive-history"),
        ):
            status, body = await world.call(method, path)
            assert (status, body["code"]) == (404, "proplet_not_found"), path


async def test_an_idle_proplet_that_is_offline_or_cordoned_can_be_deleted(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(proplet_id="p1")
        start = await accepted(p1)
        status, body = await world.call("DELETE", "/proplets/p1")
        assert (status, body["error"]) == (409, "conflict: proplet p1 has 1 active task")
        await p1.result(start, 1)
        await world.ended(task["id"])
        status, body = await world.call("DELETE", "/proplets/p1")
        assert (status, body["code"]) == (409, "proplet_alive")
        await change(world, "cordon")
        assert await world.call("DELETE", "/proplets/p1") == (204, None)
        assert (await world.call("GET", "/proplets/p1"))[0] == 404
        async with world.proplet("p2") as p2:
            p2.bus.drop()
            await world.until(lambda shown: not shown["alive"], "/proplets/p2")
            assert (await world.call("DELETE", "/proplets/p2"))[0] == 204
    async with world.manager():
        assert (await world.call("GET", "/proplets"))[1]["total"] == 0


async def test_a_deleted_proplet_that_reports_is_asked_to_register_again(world):
    world.heartbeat_s = "0.05"
    async with world.manager(), world.proplet("p1") as p1:
        asked = asyncio.Event()

        async def hear(message) -> None:
            if not message.retain:
                asked.set()

        await p1.bus.subscribe(NAMES.announce, hear)
        await change(world, "cordon")
        assert (await world.call("DELETE", "/proplets/p1"))[0] == 204
        async with asyncio.timeout(10):
            while not asked.is_set():
                await p1.alive()
                await asyncio.sleep(0.01)
        await p1.register()
        shown = await world.until(lambda shown: shown["alive"], "/proplets/p1")
        assert shown["cordoned"] is False


async def test_a_stranger_that_never_registers_does_not_make_all_others_do_so_again_and_again(world):
    world.heartbeat_s = "0.02"
    async with world.manager(), world.proplet("p1") as p1:
        heard = []

        async def hear(message) -> None:
            heard.append(message)

        await p1.bus.subscribe(NAMES.announce, hear)
        for _ in range(20):
            said = Alive(proplet_id="ghost", instance="x", status="alive")
            await p1.bus.publish(NAMES.proplet("ghost", "alive"), said.encode())
            await asyncio.sleep(0.005)
        await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        assert len(heard) <= 2  # the retained one, and one for the ghost
        assert (await world.call("GET", "/proplets"))[1]["total"] == 1


async def _any_start(world, proplet):
    await proplet.alive()
    await world.launch(proplet_id=proplet.id)
    return await proplet.started()


async def test_the_times_of_the_last_reports_are_kept(world, monkeypatch):
    async with world.manager(), world.proplet("p1") as p1:
        for _ in range(HISTORY + 5):
            await p1.alive()
        page = await world.until(lambda page: page["total"] == 100, "/proplets/p1/alive-history?limit=3")
        assert len(page["history"]) == 3
        assert page["history"] == sorted(page["history"], reverse=True)
        _, shown = await world.call("GET", "/proplets/p1")
        assert page["history"][0] <= shown["last_alive_at"]
        assert (await world.call("GET", "/proplets/p1/alive-history?offset=99"))[1]["total"] == 100
        assert (await world.call("GET", "/proplets/p1/alive-history?limit=0"))[0] == 400


async def test_what_a_proplet_says_of_itself_is_refreshed_with_every_connect(world):
    async with world.manager(), world.proplet("p1", slots=2) as p1:
        assert (await world.call("GET", "/proplets/p1"))[1]["free_slots"] == 2
        again = PropletCreate(
            proplet_id="p1", instance=p1.instance, metadata={"location": "attic"}, capabilities=Capabilities(slots=3)
        )
        await p1.say("create", again)
        shown = await world.until(lambda shown: shown["metadata"] == {"location": "attic"}, "/proplets/p1")
        assert (shown["capabilities"]["slots"], shown["free_slots"]) == (3, 3)


async def test_a_proplet_is_described_as_a_thing(world):
    async with world.manager(), world.proplet("p1"):
        status, found = await world.call("GET", "/proplets/p1/sdf")
        assert (status, found["info"]["version"]) == (200, "1.0")
        assert found["info"]["title"].startswith("Propeller Proplet: ")
        assert found["info"]["title"].endswith(" (p1)")
        thing = found["sdfThing"]["Proplet"]
        assert set(thing["sdfAction"]) == {"start", "stop", "invoke"}
        _, shown = await world.call("GET", "/proplets/p1")
        assert set(thing["sdfProperty"]) <= set(shown)
        assert _dangling(found, found) == []


def _dangling(node, document) -> list[str]:
    """References that lead nowhere."""
    if isinstance(node, list):
        return [each for item in node for each in _dangling(item, document)]
    if not isinstance(node, dict):
        return []
    found = [each for value in node.values() for each in _dangling(value, document)]
    reference = node.get("sdfRef")
    if reference is not None:
        at = document
        for part in reference.removeprefix("#/").split("/"):
            at = at.get(part, {})
        found += [] if at else [reference]
    return found


@pytest.mark.parametrize(
    ("field", "value"), [("slots", 10**18), ("slots", -1), ("queue", 10**18), ("memory_bytes", -1)]
)
async def test_a_proplet_that_declares_nonsense_is_not_believed_and_disturbs_nobody(world, field, value):
    world.heartbeat_s = "0.02"
    async with world.manager(), world.proplet("p1", slots=2) as p1:
        heard = []

        async def hear(message) -> None:
            heard.append(message)

        await p1.bus.subscribe(NAMES.announce, hear)
        nonsense = {"proplet_id": "p1", "instance": "second life", "capabilities": {field: value}}
        said = Alive(proplet_id="p1", instance="second life", status="alive")
        with capture_logs() as logs:
            await p1.bus.publish(NAMES.proplet("p1", "create"), json.dumps(nonsense).encode())
            for _ in range(20):
                await p1.say("alive", said)
                await asyncio.sleep(0.005)
            await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        refused = [each["error"] for each in logs if each["event"] == "message refused"]
        assert [f"field capabilities.{field}" in error for error in refused] == [True]
        assert (await world.call("GET", "/proplets/p1"))[1]["capabilities"]["slots"] == 2
        assert len(heard) <= 2  # the retained one, and one that asks who lives


async def test_what_was_once_believed_of_a_proplet_is_no_reason_not_to_start(world):
    async with world.manager(), world.proplet("p1", slots=2):
        pass
    with closing(sqlite3.connect(world.folder / "manager.db")) as database, database:
        database.execute("UPDATE proplets SET description = replace(description, '\"slots\": 2', '\"slots\": 2000000')")
        assert database.total_changes == 1
    async with world.manager():
        shown = (await world.call("GET", "/proplets/p1"))[1]
        assert shown["capabilities"]["slots"] == 1


async def test_what_a_proplet_says_again_and_again_is_logged_once_a_minute(world):
    async with world.manager(), world.proplet("p1") as p1:
        start = Start(id="unknown", attempt=1, proplet_id="p1", name="n", digest=DIGEST, size=1)
        with capture_logs() as logs:
            for _ in range(30):
                await p1.acknowledged(await p1.status(start, "accepted"))
        assert [each["proplet_id"] for each in logs if each["event"].startswith("accepted what")] == ["p1"]


async def test_who_looked_while_a_report_was_overdue_is_told_when_it_comes(tmp_path):
    """Between two looks of the manager's own a proplet may be gone and back."""
    now = 1000.0
    async with (
        Database(sqlite_url(tmp_path / "manager.db"), SCHEMA) as database,
        MemoryBus(MemoryBroker(), client_id="manager") as bus,
    ):
        known = Proplets(bus, database, NAMES, Announce(heartbeat_s=5), clock=lambda: now)
        await known.register(Proplet("p1", last_seen=now, offline=False))
        told: list[bool] = []

        async def look(proplet_id: str) -> None:
            told.append(known.alive(known.get(proplet_id)))

        known.on_change(look)
        now += 15.1
        await known.heard(known.get("p1"))
        await known.heard(known.get("p1"))
    assert told == [True]
