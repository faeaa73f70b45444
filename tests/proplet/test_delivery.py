"""Nothing that the proplet promised is lost: results until the manager has them, updates until the coordinator has them."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from contextlib import closing, contextmanager

import pytest

from proplet.work import deliveries, outbox
from proplet.work.journal import Journal
from proplet.work.outcome import Success
from proplet.work.outgoing import Ref, result_message
from swashplate.bus import MemoryBus, PayloadTooLargeError, Received
from swashplate.messages import AttemptRef, Result
from swashplate.testing import Faults, FaultyBroker, FaultyBus
from tests.proplet.conftest import NAMES, PATIENCE
from tests.support.journal import state_on_disk

ROUND = {"ROUND_ID": "r-1"}


def update(**changes) -> str:
    said = {"round_id": "r-1", "proplet_id": "proplet-1", "num_samples": 64, "metrics": {"loss": 0.5}}
    return json.dumps({**said, "update": {"w": [1.5, -2.0], "b": 0.25}, **changes})


@pytest.fixture
def quick(monkeypatch):
    """Resend after milliseconds."""
    monkeypatch.setattr(outbox, "AGAIN_S", 0.05)
    monkeypatch.setattr(deliveries, "POST_AGAIN_S", 0.02)
    monkeypatch.setattr(outbox, "KEEP_AGAIN_S", 0.02)


@contextmanager
def refused_by_the_disk(world, kind: str):
    """The journal cannot write results, or acceptances, meanwhile."""
    condition = "IS NOT NULL" if kind == "results" else "IS NULL"
    with closing(sqlite3.connect(world.tmp_path / "state" / "journal.db")) as database:
        database.executescript(
            f"CREATE TRIGGER full BEFORE INSERT ON entry WHEN NEW.result {condition}"
            " BEGIN SELECT RAISE(ROLLBACK, 'full'); END"
        )
        yield
        database.executescript("DROP TRIGGER full")


async def until_acknowledged(world, task_id: str):
    """Until the next life of the proplet will know that the manager has the result."""
    async with asyncio.timeout(PATIENCE):
        while state_on_disk(world.tmp_path / "state", task_id) != "acknowledged":
            await asyncio.sleep(0.01)


def learning(world, guests, text: str | None = None, *, guest: str | None = None, **fields):
    world.site.datasets.put("proplet-1", [{"x": [1.0], "y": 1}])
    fields = {"kind": "federated", "env": ROUND, "tokens": {"update": "secret"}, **fields}
    return world.start(guest or guests["prints"](update() if text is None else text), **fields)


async def test_a_result_is_sent_again_with_the_same_id_until_it_is_acknowledged(world, quick, guests):
    world.manager.acknowledges = False
    async with world.proplet():
        start = world.start(guests["prints"]("kept"))
        await world.manager.outcome(start)
        await world.manager.until(lambda: len(world.manager.results) >= 3)
        assert len({r.id for r in world.manager.results}) == 1
        await world.manager.acknowledge(world.manager.results[0].id)
        await until_acknowledged(world, start.id)


async def test_an_acceptance_is_sent_again_until_it_is_acknowledged_or_has_a_result(world, quick, proplet, guests):
    world.manager.acknowledges = False
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await world.manager.until(lambda: len(world.manager.statuses) >= 3)
    assert len({s.id for s in world.manager.statuses}) == 1
    await world.manager.stop(start.id)
    await world.manager.until(lambda: len(world.manager.results) >= 3)
    said = len(world.manager.statuses)
    await world.manager.until(lambda: len(world.manager.results) >= 6)
    assert len(world.manager.statuses) == said


async def test_a_result_survives_a_restart_of_the_proplet(world, guests):
    world.manager.acknowledges = False
    async with world.proplet():
        before = await world.manager.outcome(world.start(guests["prints"]("kept")))
    world.manager.results.clear()
    async with world.proplet():
        assert await world.manager.result(before.task_id) == before
        world.manager.acknowledges = True
        await world.manager.acknowledge(before.id)
        await until_acknowledged(world, before.task_id)
    world.manager.results.clear()
    async with world.proplet():
        await world.manager.outcome(world.start(guests["prints"]("later")))
    assert [r.results for r in world.manager.results] == ["later"]


async def test_a_result_is_sent_at_once_after_a_reconnect(world, proplet, guests, logged):
    start = world.start(guests["loops"], timeout_s=1)
    await world.manager.start(start)
    await logged.until("looping")
    proplet.bus.drop()
    await logged.until(f"Task {start.id} failed")
    assert world.manager.results == []
    await proplet.bus.reconnect()
    assert (await world.manager.result(start.id)).code == "timeout"


async def test_an_attempt_that_a_restart_interrupted_is_reported_once(world, guests, logged):
    async with world.proplet():
        start = world.start(guests["loops"])
        await world.manager.start(start)
        await logged.until("looping")
        await world.manager.status(start.id)
    assert world.manager.results == []
    async with world.proplet():
        result = await world.manager.result(start.id)
        assert (result.code, result.retryable) == ("proplet_restarted", True)
        await until_acknowledged(world, start.id)
    async with world.proplet():
        again = await world.manager.outcome(world.start(guests["prints"]("ok")))
    assert [r.id for r in world.manager.results] == [result.id, again.id]


async def test_a_start_that_comes_again_after_a_restart_does_not_run_again(world, guests, logged):
    start = world.start(guests["prints"]("once"))
    async with world.proplet():
        before = await world.manager.outcome(start)
    world.manager.results.clear()
    async with world.proplet():
        assert await world.manager.outcome(start) == before
    assert sum("Executing task" in line["event"] for line in logged) == 1


async def test_an_update_reaches_the_coordinator_before_its_result_reaches_the_manager(world, proplet, guests, logged):
    async with world.site.data_store(), world.site.coordinator():
        start = learning(world, guests)
        result = await world.manager.outcome(start)
    [(token, posted)] = world.site.updates
    assert token == "secret"
    assert posted == json.loads(update())
    assert result.results == {"round_id": "r-1", "num_samples": 64, "metrics": {"loss": 0.5}, "update": "accepted"}
    url = world.site.url(world.site.coordinator_port) + "/update"
    assert await logged.until(f"Successfully posted FL update to coordinator via HTTP: {url}")


async def test_a_large_update_is_carried_too(world, proplet, guests):
    weights = [i / 7 for i in range(6000)]
    async with world.site.data_store(), world.site.coordinator():
        padding = " " * (3 << 20)
        guest = guests["prints"](update(update={"w": weights, "b": 0}) + padding)
        assert (await world.manager.outcome(learning(world, guests, guest=guest))).error is None
    assert world.site.updates[0][1]["update"]["w"] == weights


async def test_the_base_model_is_filled_in_when_the_guest_does_not_name_it(world, proplet, guests):
    async with world.site.data_store(), world.site.registry(), world.site.coordinator():
        env = {**ROUND, "MODEL_URI": "fl/models/global_model_v0"}
        await world.manager.outcome(learning(world, guests, env=env))
    assert world.site.updates[0][1]["base_model_uri"] == "fl/models/global_model_v0"


async def test_an_update_waits_for_a_coordinator_that_is_away(world, quick, proplet, guests, logged):
    async with world.site.data_store():
        start = learning(world, guests)
        await world.manager.start(start)
        await logged.until("coordinator unreachable")
        assert world.manager.results == []
        async with world.site.coordinator():
            assert (await world.manager.result(start.id)).error is None


async def test_an_update_survives_a_restart_of_the_proplet(world, quick, guests, logged):
    async with world.site.data_store():
        start = learning(world, guests)
        async with world.proplet():
            await world.manager.start(start)
            await logged.until("coordinator unreachable")
        async with world.site.coordinator(), world.proplet():
            assert (await world.manager.result(start.id)).results["update"] == "accepted"
    assert [token for token, _ in world.site.updates] == ["secret"]


async def test_a_coordinator_in_trouble_is_asked_again(world, quick, proplet, guests):
    world.site.answers = [
        (503, {"error": "not now", "code": "unavailable"}),
        (500, {"error": "oh", "code": "internal"}),
    ]
    async with world.site.data_store(), world.site.coordinator():
        assert (await world.manager.outcome(learning(world, guests))).error is None
    assert len(world.site.updates) == 3


async def test_a_refused_update_fails_the_task_with_the_reason(world, proplet, guests):
    world.site.answers = [(409, {"error": "another update is stored", "code": "update_conflict"})]
    async with world.site.data_store(), world.site.coordinator():
        result = await world.manager.outcome(learning(world, guests))
    assert (result.code, result.error) == ("update_conflict", "update refused: another update is stored")
    assert not result.retryable


async def test_an_update_that_came_too_late_is_reported_as_ignored(world, proplet, guests):
    world.site.answers = [(200, {"status": "ignored", "code": "round_closed"})]
    async with world.site.data_store(), world.site.coordinator():
        result = await world.manager.outcome(learning(world, guests))
    assert result.error is None
    assert result.results["update"] == "ignored"


async def test_a_stop_gives_up_an_update_that_waits(world, quick, proplet, guests, logged):
    async with world.site.data_store():
        start = learning(world, guests)
        await world.manager.start(start)
        await logged.until("coordinator unreachable")
        await world.manager.stop(start.id)
        assert (await world.manager.result(start.id)).code == "stopped"
    async with world.site.coordinator():
        await world.manager.outcome(world.start(guests["prints"]("next")))
    assert world.site.updates == []


async def test_the_result_of_an_update_is_written_as_soon_as_the_disk_takes_it(world, quick, proplet, guests, logged):
    async with world.site.data_store(), world.site.coordinator():
        start = learning(world, guests)
        with refused_by_the_disk(world, "results"):
            await world.manager.start(start)
            await logged.until("not kept, trying again")
            seen = len(world.manager.alives)
            await world.manager.bus.publish("m/d/c/c/control/manager/announce", b'{"heartbeat_s":0.05}', retain=True)
            await world.manager.until(lambda: len(world.manager.alives) > seen + 3)
            assert world.manager.alives[-1].running == [AttemptRef(task_id=start.id, attempt=1)]
            assert world.manager.results == []
        assert (await world.manager.result(start.id)).results["update"] == "accepted"
    assert len(world.site.updates) == 1


async def test_a_result_outlasts_a_disk_that_refuses_for_a_while(world, quick, proplet, guests, logged):
    start = world.start(guests["prints"]("kept"))
    with refused_by_the_disk(world, "results"):
        await world.manager.start(start)
        await logged.until("not kept, trying again")
        await logged.until(f"Task {start.id} completed")
    assert (await world.manager.result(start.id)).results == "kept"


async def test_a_result_of_which_nobody_was_told_does_not_wait_for_the_disk(
    world, monkeypatch, quick, proplet, guests, logged
):
    monkeypatch.setattr(outbox, "SOON_S", 30)
    start = world.start(guests["prints"]("kept"))
    with refused_by_the_disk(world, "results"):
        assert (await world.manager.outcome(start)).results == "kept"
        await logged.until("not kept, trying again")
        assert state_on_disk(world.tmp_path / "state", start.id) is None
    await until_acknowledged(world, start.id)
    assert len(world.manager.results) == 1


async def test_a_result_of_what_was_accepted_waits_for_the_disk(world, quick, proplet, guests, logged):
    start = world.start(guests["loops"])
    await world.manager.start(start)
    await world.manager.status(start.id)
    with refused_by_the_disk(world, "results"):
        await world.manager.stop(start.id)
        await logged.until("not kept, trying again")
        assert world.manager.results == []
    assert (await world.manager.result(start.id)).code == "stopped"


async def test_an_attempt_that_learned_soon_says_no_more_than_its_result(world, monkeypatch, proplet, guests):
    monkeypatch.setattr(outbox, "SOON_S", 30)
    async with world.site.data_store(), world.site.coordinator():
        await world.manager.outcome(learning(world, guests))
    assert world.manager.statuses == []


async def test_an_attempt_whose_update_waits_says_that_it_was_accepted(world, monkeypatch, quick, proplet, guests):
    async with world.site.data_store():
        start = learning(world, guests)
        await world.manager.start(start)
        assert (await world.manager.status(start.id)).status == "accepted"
        assert world.manager.results == []
        async with world.site.coordinator():
            await world.manager.result(start.id)


async def test_what_is_lost_without_acknowledgement_is_sent_again_with_one(tmp_path, quick):
    broker = FaultyBroker(random.Random(1), Faults(loss=1.0))
    ours, managers = FaultyBus(broker, client_id="proplet"), FaultyBus(broker, client_id="manager")
    said = asyncio.get_running_loop().create_future()

    async def heard(message: Received) -> None:
        said.set_result(Result.decode(message.payload).results)

    await managers.subscribe(NAMES.every_proplet("results"), heard)
    async with Journal(tmp_path / "journal.db") as journal, ours, managers:
        await ours.wait_connected(PATIENCE)
        await managers.wait_connected(PATIENCE)
        messages = outbox.Outbox(journal, ours, NAMES, "proplet-1")
        await messages.open()
        await messages.finish(result_message(Ref("task-1", 1), "proplet-1", Success("kept")))
        async with asyncio.timeout(PATIENCE):
            assert await said == "kept"
        await messages.close()


async def test_an_acceptance_outlasts_a_disk_that_refuses_for_a_while(world, quick, proplet, guests, logged):
    start = world.start(guests["loops"])
    with refused_by_the_disk(world, "status"):
        await world.manager.start(start)
        await logged.until("not kept, trying again")
        assert world.manager.statuses == []
    assert (await world.manager.status(start.id)).status == "accepted"


async def test_a_stop_of_a_waiting_update_is_reported_as_soon_as_the_disk_takes_it(
    world, quick, proplet, guests, logged
):
    async with world.site.data_store():
        start = learning(world, guests)
        await world.manager.start(start)
        await logged.until("coordinator unreachable")
        with refused_by_the_disk(world, "results"):
            await world.manager.stop(start.id)
            await logged.until("not kept, trying again")
        assert (await world.manager.result(start.id)).code == "stopped"


async def test_an_update_goes_to_the_coordinator_that_the_manager_announces(world, guests):
    urls = {"coordinator": world.site.url(world.site.coordinator_port)}
    announce = json.dumps({"heartbeat_s": 10, "urls": urls}).encode()
    await world.manager.bus.publish("m/d/c/c/control/manager/announce", announce, retain=True)
    async with world.site.data_store(), world.site.coordinator(), world.proplet(COORDINATOR_URL=""):
        assert (await world.manager.outcome(learning(world, guests))).error is None
    assert len(world.site.updates) == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no json", "update_invalid"),
        ("", "update_invalid"),
        (update(num_samples=0), "update_invalid"),
        (update(update={"w": "NaN"}).replace('"NaN"', "NaN"), "update_invalid"),
        (update(round_id="r-2"), "update_mismatch"),
        (update(proplet_id="proplet-2"), "update_mismatch"),
    ],
)
async def test_what_is_no_update_of_this_task_never_leaves(world, proplet, guests, text, code):
    async with world.site.data_store(), world.site.coordinator():
        assert (await world.manager.outcome(learning(world, guests, text))).code == code
    assert world.site.updates == []


async def test_learning_without_a_coordinator_is_a_configuration_error(world, guests):
    async with world.site.data_store(), world.proplet(COORDINATOR_URL=""):
        assert (await world.manager.outcome(learning(world, guests))).code == "configuration"


async def test_a_result_that_the_bus_refuses_is_replaced_by_a_failure(world, proplet, guests):
    real = proplet.bus.post

    def narrow(topic, payload, **more):
        if len(payload) > 1000 and topic.endswith("results"):
            raise PayloadTooLargeError("over the broker's limit")
        real(topic, payload, **more)

    proplet.bus.post = narrow
    result = await world.manager.outcome(world.start(guests["prints"]("x" * 2000)))
    assert result.code == "result_too_large"


async def test_an_earlier_life_is_told_apart_by_its_instance(world, guests):
    async with world.proplet():
        first = (await world.manager.until(lambda: world.manager.creates))[-1]
    async with world.proplet():
        second = (await world.manager.until(lambda: world.manager.creates[1:]))[-1]
    assert first.instance != second.instance
    goodbye = [a for a in world.manager.alives if a.status == "offline"]
    assert {a.instance for a in goodbye} == {first.instance, second.instance}


async def test_a_vanished_proplet_is_announced_by_its_last_will(world, proplet):
    await world.manager.until(lambda: world.manager.alives)
    proplet.bus.drop()
    gone = await world.manager.until(lambda: [a for a in world.manager.alives if a.status == "offline"])
    assert gone[-1].instance == world.manager.creates[-1].instance


async def test_every_connect_and_every_new_manager_is_greeted(world, proplet):
    await world.manager.until(lambda: len(world.manager.creates) == 1)
    proplet.bus.drop()
    await proplet.bus.reconnect()
    await world.manager.until(lambda: len(world.manager.creates) == 2)
    await world.manager.bus.publish("m/d/c/c/control/manager/announce", b'{"protocol":2,"heartbeat_s":30}')
    await world.manager.until(lambda: len(world.manager.creates) == 3)


async def test_the_announced_heartbeat_is_kept(world, proplet):
    await world.manager.bus.publish("m/d/c/c/control/manager/announce", b'{"heartbeat_s":0.05}', retain=True)
    await world.manager.until(lambda: len(world.manager.alives) > 6)


async def test_a_create_tells_what_the_proplet_has(world, guests):
    world.site.datasets.put("ward-7", [{"x": [1.0], "y": 1}])
    async with world.site.data_store(), world.proplet(PROPLET_LABELS="site=berlin, gpu=none", PROPLET_SLOTS="2"):
        start = world.start(guests["prints"](""))
        await world.manager.outcome(start)
        told = await world.manager.until(
            lambda: [c.capabilities for c in world.manager.creates if c.capabilities.datasets]
        )
        assert told[0].datasets == ["ward-7"]
        assert told[0].labels == {"site": "berlin", "gpu": "none"}
        assert told[0].slots == 2
        assert told[0].cpu > 0
        assert told[0].memory_bytes > 0
    async with world.proplet():
        last = await world.manager.until(lambda: [c for c in world.manager.creates if c.capabilities.digests])
        assert last[0].capabilities.digests == [start.digest]


async def test_messages_of_one_task_are_in_order(world, proplet, guests):
    heard = []

    async def note(message):
        heard.append(message.topic.rpartition("/")[2])

    other = MemoryBus(world.broker, client_id="other")
    await other.subscribe("m/d/c/c/control/proplet/+/+", note)
    async with other:
        start = world.start(guests["loops"])
        await world.manager.start(start)
        await world.manager.status(start.id)
        await world.manager.stop(start.id)
        assert isinstance(await world.manager.result(start.id), Result)
        await world.manager.until(lambda: "results" in heard)
    assert heard.index("status") < heard.index("results")


async def test_a_result_that_is_too_large_to_be_kept_for_ever_is_answered_for_too(world, guests, logged):
    start = world.start(guests["prints"]("x" * 9000))
    async with world.proplet():
        assert len((await world.manager.outcome(start)).results) == 9000
        await until_acknowledged(world, start.id)
    world.manager.results.clear()
    async with world.proplet():
        again = await world.manager.outcome(start)
    assert (again.code, again.retryable) == ("result_forgotten", True)
    assert sum("Executing task" in line["event"] for line in logged) == 1
