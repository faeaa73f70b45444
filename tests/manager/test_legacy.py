"""Propeller's proplets at the manager: leases, a change of protocol, restarts, and updates that come inside results."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from manager import legacy, proplets
from swashplate.bus import MemoryBus, Received
from swashplate.messages.legacy import LegacyAlive, LegacyCreate, LegacyLearned, LegacyResult, LegacyStart
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
    monkeypatch.setattr(proplets, "LEGACY_REPORT_S", 0.05)
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
            monkeypatch.setattr(proplets, "LEGACY_REPORT_S", 0.05)
            async with asyncio.timeout(PATIENCE):
                while "the database cannot do this now" not in capsys.readouterr().out:
                    await asyncio.sleep(0.005)
        ended = await world.ended(task["id"])
        assert (ended["status"], ended["code"]) == ("failed", "lease_expired")


def test_a_legacy_proplet_reports_at_its_own_pace():
    old, modern = (proplets.Proplet("p", legacy=legacy, last_seen=100, offline=False) for legacy in (True, False))
    assert proplets.is_alive(old, 129, heartbeat_s=1)
    assert not proplets.is_alive(old, 131, heartbeat_s=1)
    assert proplets.is_alive(old, 159, heartbeat_s=20)
    assert not proplets.is_alive(modern, 104, heartbeat_s=1)


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


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_update_inside_a_result_waits_for_the_coordinator(world, restarted):
    async with legacy_proplet(world) as old:
        async with world.manager():
            await old.say("create", LegacyCreate(proplet_id="old"))
            task = await running(world, old, **FEDERATED)
            await old.learned(task["id"])
            await world.ended(task["id"])
            if not restarted:
                await handed_in(world)
                return
        async with world.manager():
            await handed_in(world)


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
