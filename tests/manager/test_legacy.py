"""Propeller's proplets at the manager: leases, a change of protocol, restarts, and updates that come inside results."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from contextlib import asynccontextmanager, closing

import pytest

from manager.fleet import histories, legacy, proplet
from manager.fleet.proplets import Proplets
from manager.latent import invoke_sender
from manager.state import store, tables
from manager.state.ledger import Ledger
from manager.state.records import Attempt, Task
from manager.state.states import AttemptState, TaskState
from manager.work.dialects import Parents
from swashplate.blobs import BlobStore
from swashplate.bus import MemoryBroker, MemoryBus, Received
from swashplate.database import Database, sqlite_url
from swashplate.errors import InvalidRequestError
from swashplate.messages import Announce, TaskCreate
from swashplate.messages.legacy import (
    LegacyAlive,
    LegacyCreate,
    LegacyInvoke,
    LegacyInvokeResult,
    LegacyLearned,
    LegacyMetrics,
    LegacyResult,
    LegacyStart,
    LegacyStop,
)
from tests.manager.conftest import NAMES, PATIENCE
from tests.manager.test_learning import FakeCoordinator

UPDATE = {
    "round_id": "r1",
    "proplet_id": "old",
    "base_model_uri": "fl/models/global_model_v0",
    "num_samples": 3,
    "update": {"w": [1, 2, 3], "b": 0},
}
FEDERATED = {
    "kind": "federated",
    "env": {"ROUND_ID": "r1"},
    "proplet_id": "old",
    "tokens": {"update": "secret"},
}


class Legacy:
    """A proplet that knows the shared topics only."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.starts: asyncio.Queue[LegacyStart] = asyncio.Queue()

    async def say(self, kind: str, message) -> None:
        await self.bus.publish(NAMES.shared_from_proplets(kind), message.encode(), qos=2)

    async def hear(self, message: Received) -> None:
        self.starts.put_nowait(LegacyStart.decode(message.payload))

    async def started(self) -> LegacyStart:
        async with asyncio.timeout(PATIENCE):
            return await self.starts.get()

    async def learned(self, task_id: str) -> None:
        inside = LegacyLearned.of(json.dumps(UPDATE).encode(), round_id="r1", proplet_id="old")
        await self.say("results", LegacyResult(task_id=task_id, results=inside.model_dump()))


@asynccontextmanager
async def legacy_proplet(world):
    async with MemoryBus(world.broker, client_id="old-shared") as bus:
        found = Legacy(bus)
        await bus.subscribe(NAMES.shared_to_proplets("start"), found.hear)
        await found.say("create", LegacyCreate(proplet_id="old"))
        yield found


async def registered(world):
    return await world.until(lambda shown: shown["alive"] and shown["legacy"], "/proplets/old")


async def running(world, old: Legacy, **fields):
    await registered(world)
    task = await world.launch(**{"proplet_id": "old", **fields})
    assert (await old.started()).id == task["id"]
    return await world.until(lambda shown: shown["status"] == "running", f"/tasks/{task['id']}")


async def test_a_task_is_lost_when_the_heartbeats_stop(world, monkeypatch):
    world.heartbeat_s = "0.05"
    monkeypatch.setattr(proplet, "LEGACY_REPORT_S", 0.05)
    monkeypatch.setattr(legacy, "LOOK_AGAIN_S", 0.01)
    async with world.manager(), legacy_proplet(world) as old:
        await registered(world)
        task = await world.launch(proplet_id="old")
        await old.started()
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("failed", "lease_expired")


async def test_a_loss_that_the_database_cannot_record_is_recorded_later(world, monkeypatch, capsys):
    world.heartbeat_s = "0.05"
    monkeypatch.setattr(legacy, "LOOK_AGAIN_S", 0.01)
    async with world.manager(), legacy_proplet(world) as old:
        task = await running(world, old)
        with world.broken("attempts", "deadline"):
            monkeypatch.setattr(proplet, "LEGACY_REPORT_S", 0.05)
            async with asyncio.timeout(PATIENCE):
                while "the database cannot do this now" not in capsys.readouterr().out:
                    await asyncio.sleep(0.005)
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("failed", "lease_expired")


def test_a_legacy_proplet_reports_at_its_own_pace():
    old, modern = (proplet.Proplet("p", legacy=legacy, last_seen=100, offline=False) for legacy in (True, False))
    assert proplet.is_alive(old, 129, heartbeat_s=1)
    assert not proplet.is_alive(old, 131, heartbeat_s=1)
    assert proplet.is_alive(old, 159, heartbeat_s=20)
    assert not proplet.is_alive(modern, 104, heartbeat_s=1)


async def test_a_proplet_that_gets_topics_of_its_own_is_legacy_no_more(world):
    async with world.manager(), legacy_proplet(world) as old:
        task = await running(world, old, retries=1)
        async with world.proplet("old") as modern:
            shown = await world.until(lambda shown: not shown["legacy"], "/proplets/old")
            assert shown["alive"]
            start = await modern.started()
            assert (start.id, start.attempt) == (task["id"], 2)
            await old.say("create", LegacyCreate(proplet_id="old"))
            await old.say("results", LegacyResult(task_id=task["id"], proplet_id="old", results="stolen"))
            await modern.acknowledged(await modern.result(start, "mine"))
            assert (await world.ended(task["id"]))["results"] == "mine"
            assert not (await world.call("GET", "/proplets/old"))[1]["legacy"]


async def test_after_a_restart_a_legacy_proplet_is_known_and_its_result_is_taken(world):
    async with legacy_proplet(world) as old:
        async with world.manager():
            await old.say("create", LegacyCreate(proplet_id="old"))
            task = await running(world, old)
        async with world.manager():
            assert (await world.call("GET", "/proplets/old"))[1]["legacy"]
            await old.say("results", LegacyResult(task_id=task["id"], proplet_id="old", results=42))
            assert (await world.ended(task["id"]))["results"] == 42
            assert old.starts.empty()


async def test_a_heartbeat_alone_registers_a_proplet_that_is_older_than_the_manager(world):
    async with world.manager(), MemoryBus(world.broker, client_id="old") as bus:
        await Legacy(bus).say("alive", LegacyAlive(proplet_id="old"))
        await registered(world)


@pytest.mark.parametrize("away_s", [None, 0, 10 * 24 * 3600])
async def test_an_update_inside_a_result_waits_for_the_coordinator(world, away_s):
    """Also while the manager is away, for however long."""
    async with legacy_proplet(world) as old:
        async with world.manager():
            await old.say("create", LegacyCreate(proplet_id="old"))
            task = await running(world, old, **FEDERATED)
            await old.learned(task["id"])
            await world.ended(task["id"])
            if away_s is None:
                await handed_in(world)
                return
        assert untold(world) == [task["id"]]
        world.ahead_s = away_s
        async with world.manager():
            await handed_in(world)
        assert untold(world) == []


def untold(world) -> list[str]:
    with closing(sqlite3.connect(world.folder / "manager.db")) as database:
        return [row[0] for row in database.execute("SELECT task_id FROM untold")]


async def handed_in(world) -> None:
    async with FakeCoordinator().serving(world.coordinator_url) as coordinator, asyncio.timeout(PATIENCE):
        while not coordinator.updates:
            await asyncio.sleep(0.005)
        token, update = coordinator.updates[0]
        assert (token, update["update"]) == ("secret", UPDATE["update"])


async def test_a_result_without_a_readable_update_is_kept_and_handed_to_nobody(world):
    async with FakeCoordinator().serving(world.coordinator_url) as coordinator:
        async with world.manager(), legacy_proplet(world) as old:
            task = await running(world, old, **FEDERATED)
            inside = LegacyLearned.of(b"\x00\x01 tensors", round_id="r1", proplet_id="old", format="f32-delta")
            await old.say("results", LegacyResult(task_id=task["id"], results=inside.model_dump()))
            ended = await world.ended(task["id"])
            assert ended["results"]["update_b64"] == inside.update_b64
        assert coordinator.updates == []


# Standing tasks, calls, and what is measured.


async def hears(world, old, kind, model):
    """What is said to all proplets of this kind."""
    heard: asyncio.Queue = asyncio.Queue()

    async def hear(message: Received) -> None:
        heard.put_nowait(model.decode(message.payload))

    await old.bus.subscribe(NAMES.shared_to_proplets(kind), hear)

    async def following():
        async with asyncio.timeout(PATIENCE):
            return await heard.get()

    return heard, following


async def test_a_latent_task_is_called_on_the_shared_topics(world):
    async with world.manager(), legacy_proplet(world) as old:
        _, invoked = await hears(world, old, "invoke", LegacyInvoke)
        task = await running(world, old, latent=True)
        body = {"inputs": [2, 40], "env": {"A": "b"}}
        waiting = asyncio.create_task(world.call("POST", f"/tasks/{task['id']}/invoke", body))
        call = await invoked()
        assert (call.id, call.proplet_id, call.inputs, call.env) == (task["id"], "old", ["2", "40"], {"A": "b"})
        await old.say("invoke_results", answer(call, results="42"))
        assert (await waiting)[1]["results"] == "42"


def answer(call: LegacyInvoke, **more) -> LegacyInvokeResult:
    return LegacyInvokeResult(task_id=call.id, invocation_id=call.invocation_id, proplet_id="old", **more)


async def test_a_call_that_came_before_the_compiler_had_finished_is_made_again(world):
    async with world.manager(), legacy_proplet(world) as old:
        _, invoked = await hears(world, old, "invoke", LegacyInvoke)
        task = await running(world, old, latent=True)
        waiting = asyncio.create_task(world.call("POST", f"/tasks/{task['id']}/invoke", {}))
        call = await invoked()
        await old.say("invoke_results", answer(call, results="", error=f"task {call.id} has not been precompiled"))
        again = await invoked()
        assert again.invocation_id == call.invocation_id
        await old.say("invoke_results", answer(again, results="", error="trap"))
        status, body = await waiting
        assert (status, body["error"], body["code"]) == (502, "trap", "failed")


async def test_a_call_on_the_shared_topics_is_made_once_also_by_a_restarted_manager(world, monkeypatch):
    monkeypatch.setattr(invoke_sender, "AGAIN_S", 0.01)
    async with legacy_proplet(world) as old:
        heard, invoked = await hears(world, old, "invoke", LegacyInvoke)
        async with world.manager():
            await old.say("create", LegacyCreate(proplet_id="old"))
            task = await running(world, old, latent=True)
            _, submitted = await world.call("POST", f"/tasks/{task['id']}/invoke", {"async": True})
            call = await invoked()
        async with world.manager():
            await old.say("alive", LegacyAlive(proplet_id="old"))
            await old.say("invoke_results", answer(call, results="once"))
            path = f"/tasks/{task['id']}/invocations/{submitted['invocation_id']}?wait=10"
            assert (await world.call("GET", path))[1]["results"] == "once"
            assert heard.empty()


async def test_the_answer_of_a_stranger_to_a_call_is_refused(world):
    async with world.manager(), legacy_proplet(world) as old, world.proplet("modern"):
        _, invoked = await hears(world, old, "invoke", LegacyInvoke)
        task = await running(world, old, latent=True)
        waiting = asyncio.create_task(world.call("POST", f"/tasks/{task['id']}/invoke", {}))
        call = await invoked()
        for stranger in ("modern", "nobody"):
            forged = answer(call, results="forged").model_copy(update={"proplet_id": stranger})
            await old.say("invoke_results", forged)
        await old.say("invoke_results", answer(call, results="true"))
        assert (await waiting)[1]["results"] == "true"


async def test_a_daemon_that_says_that_it_has_begun_is_running_until_it_is_stopped(world):
    async with world.manager(), legacy_proplet(world) as old:
        task = await running(world, old, daemon=True, restart="always")
        await old.say("results", LegacyResult(task_id=task["id"], proplet_id="old", results=""))
        other = await running(world, old)  # what was said before has been heard
        await old.say("results", LegacyResult(task_id=other["id"], proplet_id="old", results="done"))
        await world.ended(other["id"])
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["status"] == "running"
        assert (await world.call("POST", f"/tasks/{task['id']}/stop"))[0] == 200
        assert (await world.ended(task["id"]))["status"] == "interrupted"
        assert old.starts.empty()


async def test_a_daemon_begins_again_when_its_legacy_proplet_registers_anew_or_reports_an_error(world):
    async with world.manager(), legacy_proplet(world) as old:
        task = await running(world, old, daemon=True)
        await old.say("results", LegacyResult(task_id=task["id"], proplet_id="old", error="no such file"))
        assert (await old.started()).id == task["id"]
        await world.until(lambda shown: shown["status"] == "running", f"/tasks/{task['id']}")
        await old.say("create", LegacyCreate(proplet_id="old"))
        assert (await old.started()).id == task["id"]
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["attempt"] == 3


@asynccontextmanager
async def two(world):
    async with legacy_proplet(world) as old:
        await old.say("create", LegacyCreate(proplet_id="older"))
        await registered(world)
        await world.until(lambda shown: shown["alive"], "/proplets/older")
        yield old


async def test_a_broadcast_is_an_addressed_start_for_each(world):
    async with world.manager(), two(world) as old:
        task = await world.launch(broadcast=True)
        starts = [await old.started(), await old.started()]
        assert sorted(start.proplet_id for start in starts) == ["old", "older"]
        assert not any(start.broadcast for start in starts)
        for start in starts:
            said = LegacyResult(task_id=task["id"], proplet_id=start.proplet_id, results=start.proplet_id)
            await old.say("results", said)
        assert (await world.ended(task["id"]))["results"] == {"old": "old", "older": "older"}


async def test_a_stop_is_not_said_while_it_would_reach_a_proplet_that_is_to_go_on(world):
    """It names a task, and every proplet that runs it obeys."""
    async with world.manager(), two(world) as old:
        stops, stopped = await hears(world, old, "stop", LegacyStop)
        everywhere = await world.launch(broadcast=True, daemon=True)
        alone = await world.launch(proplet_id="old", daemon=True)
        for _ in range(3):
            await old.started()
        for task in (everywhere, alone):
            await world.until(lambda shown: shown["status"] == "running", f"/tasks/{task['id']}")
        assert (await world.call("POST", "/proplets/old/drain"))[1]["draining"]
        assert (await stopped()).id == alone["id"]
        assert (await world.call("GET", "/proplets/old"))[1]["task_count"] == 1
        assert stops.empty()
        await world.call("POST", f"/tasks/{everywhere['id']}/stop")
        assert (await stopped()).id == everywhere["id"]
        assert (await world.ended(everywhere["id"]))["status"] == "interrupted"


async def test_a_legacy_proplet_is_given_as_much_at_a_time_as_the_setting_says(world):
    world.settings["MANAGER_LEGACY_SLOTS"] = "2"
    async with world.manager(), legacy_proplet(world) as old:
        await registered(world)
        for _ in range(3):
            task = await world.launch()
        await old.started()
        await old.started()
        shown = await world.until(lambda shown: "waiting" in shown, f"/tasks/{task['id']}")
        assert shown["waiting"] == "the only proplet has no free slot"


async def test_what_is_measured_has_its_interval_in_seconds_and_its_time_in_any_form(world, monkeypatch):
    monkeypatch.setattr(histories, "WRITE_EVERY_S", 0.01)
    async with world.manager(), legacy_proplet(world) as old:
        await registered(world)
        profile = {"interval": 2_000_000_000, "history_size": 7}
        task = await world.launch(proplet_id="old", monitoring_profile=profile, kbs_resource_path="kbs:///k")
        start = await old.started()
        assert (start.monitoring_profile["interval"], start.monitoring_profile["history_size"]) == (2, 7)
        assert start.kbs_resource_path == "kbs:///k"
        forms = {
            "2026-01-02T03:04:05.123456789Z": "2026-01-02T03:04:05.123456789Z",
            1767323045: "2026-01-02T03:04:05Z",
            1767323045.5: "2026-01-02T03:04:05.5Z",
        }
        rust = {"secs_since_epoch": 1767323045, "nanos_since_epoch": 5}
        for at in (*forms, rust):
            said = {"task_id": task["id"], "proplet_id": "old", "metrics": {}, "aggregated": None, "timestamp": at}
            await old.bus.publish(NAMES.shared_from_proplets("task_metrics"), json.dumps(said).encode(), qos=2)
            said = {"proplet_id": "old", "timestamp": at, "cpu_metrics": {"percent": 1.5}}
            await old.bus.publish(NAMES.shared_from_proplets("metrics"), json.dumps(said).encode(), qos=2)
        expected = ["2026-01-02T03:04:05.000000005Z", *reversed(forms.values())]
        for path in (f"/tasks/{task['id']}/metrics", "/proplets/old/metrics"):
            page = await world.until(lambda page: page["total"] == 4, path)
            assert [each["timestamp"] for each in page["metrics"]] == expected


@pytest.mark.parametrize("at", [True, "yesterday", 1e300, {"secs_since_epoch": 1, "nanos_since_epoch": -1}, [1]])
def test_a_time_in_no_known_form_is_refused(at):
    with pytest.raises(InvalidRequestError, match="timestamp"):
        LegacyMetrics.decode(json.dumps({"proplet_id": "old", "timestamp": at}))


async def test_a_registration_anew_keeps_the_cordon(world):
    async with world.manager(), legacy_proplet(world) as old:
        await registered(world)
        await world.call("POST", "/proplets/old/cordon")
        await old.say("create", LegacyCreate(proplet_id="old", namespace="edge"))
        shown = await world.until(lambda shown: shown["namespace"] == "edge", "/proplets/old")
        assert shown["cordoned"] is True


async def test_what_the_parents_gave_is_in_the_start_and_in_the_guests_environment(world):
    tasks = [
        {"name": "first", "image_url": "registry/image:1"},
        {"name": "second", "image_url": "registry/image:1", "depends_on": ["first"], "env": {"A": "b"}},
    ]
    async with world.manager(), legacy_proplet(world) as old:
        await registered(world)
        status, made = await world.call("POST", "/workflows", {"tasks": tasks, "start": True})
        assert status == 201, made
        first = await old.started()
        await old.say("results", LegacyResult(task_id=first.id, proplet_id="old", results={"x": 1}))
        second = await old.started()
        assert second.parent_results == {first.id: {"x": 1}}
        assert second.env == {"A": "b", "PARENT_RESULTS": json.dumps({first.id: {"x": 1}})}


async def test_a_manager_that_was_cut_off_does_not_hold_it_against_the_proplets(world, monkeypatch):
    world.heartbeat_s = "0.1"
    monkeypatch.setattr(proplet, "LEGACY_REPORT_S", 0.1)
    monkeypatch.setattr(legacy, "LOOK_AGAIN_S", 0.01)
    async with world.manager(), legacy_proplet(world) as old:

        async def report():
            while True:
                await old.say("alive", LegacyAlive(proplet_id="old"))
                await asyncio.sleep(0.02)

        reporting = asyncio.create_task(report())
        task = await running(world, old)
        manager = world.broker._online["manager"]
        manager.drop()
        await world.until(lambda shown: not shown["alive"], "/proplets/old")
        for _ in range(10):  # it has been looked at meanwhile
            await world.call("GET", "/proplets")
        await manager.reconnect()
        await world.until(lambda shown: shown["alive"], "/proplets/old")
        reporting.cancel()
        await old.say("results", LegacyResult(task_id=task["id"], proplet_id="old", results="7"))
        assert (await world.ended(task["id"]))["results"] == "7"


async def test_the_broker_may_forget_a_result_only_when_it_is_durable(world, monkeypatch):
    go_on, write = threading.Event(), store.write

    def slowly(*args):
        go_on.wait(10)
        write(*args)

    async with world.manager(), legacy_proplet(world) as old:
        task = await running(world, old)
        monkeypatch.setattr(store, "write", slowly)
        settled = asyncio.Event()
        said = LegacyResult(task_id=task["id"], proplet_id="old", results="7").encode()
        bus = world.broker._online["manager"]
        bus._dispatch(Received(NAMES.shared_from_proplets("results"), said), settled.set)
        await world.until(lambda _: True, "/proplets")
        assert not settled.is_set()
        go_on.set()
        await asyncio.wait_for(settled.wait(), PATIENCE)
        assert (await world.call("GET", f"/tasks/{task['id']}"))[1]["results"] == "7"


async def test_a_stop_waits_until_nobody_else_runs_the_task(tmp_path):
    spec = TaskCreate(name="t", image_url="i", broadcast=True)
    task = Task("id", 1, spec, "{}", TaskState.RUNNING, 1.0, 1.0, run=1)
    one, other = (Attempt("id", number, 1, AttemptState.ACCEPTED, 1.0, proplet_id=f"p{number}") for number in (1, 2))
    async with (
        Database(sqlite_url(tmp_path / "manager.db"), tables.SCHEMA) as database,
        MemoryBus(MemoryBroker(), client_id="manager") as bus,
    ):
        ledger, known = Ledger(database), Proplets(bus, database, NAMES, Announce(heartbeat_s=5))
        for number in (1, 2):
            await known.register(proplet.Proplet(f"p{number}", legacy=True))
        ledger.put(task, one, other)
        shared = legacy.SharedTopics(bus, NAMES, BlobStore(tmp_path / "blobs"), ledger, known, no_parents)
        said: asyncio.Queue[LegacyStop] = asyncio.Queue()

        async def hear(message: Received) -> None:
            said.put_nowait(LegacyStop.decode(message.payload))

        await bus.subscribe(NAMES.shared_to_proplets("stop"), hear)
        await shared.stop(one)
        ledger.put(one.changed(state=AttemptState.LOST))
        await shared.stop(other)
        async with asyncio.timeout(PATIENCE):
            assert (await said.get()).proplet_id == "p2"
        assert said.empty()


async def no_parents(_task: Task) -> Parents:
    return Parents()
