"""What the proplet does on the shared topics, and the parts of it by themselves."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from proplet.legacy import delivery, presence
from proplet.legacy.fetch import LegacyAssembly
from proplet.legacy.results import Kept, Shelf
from swashplate.errors import IntegrityError, InvalidRequestError, TooLargeError
from swashplate.messages import Announce
from swashplate.messages.legacy import (
    LegacyChunk,
    LegacyInvoke,
    LegacyInvokeResult,
    LegacyLearned,
    LegacyMessage,
    LegacyMetrics,
    LegacyResult,
    LegacyStart,
    LegacyStop,
    LegacyTaskMetrics,
)
from tests.proplet.conftest import ID, LOOPS, NAMES, PATIENCE, prints
from tests.proplet.test_inputs import cat

UPDATE = {"round_id": "r", "proplet_id": ID, "base_model_uri": "m", "num_samples": 2, "update": {"w": [1], "b": 0}}
LEARNS = {"ROUND_ID": "r"}


def chunk(content: bytes, index: int, total: int) -> LegacyChunk:
    return LegacyChunk.of(content, app_name="a", chunk_idx=index, total_chunks=total)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9), st.data())
def test_chunks_in_any_order_and_twice_make_the_binary(pieces, data):
    order = data.draw(st.permutations(range(len(pieces))))
    again = data.draw(st.lists(st.sampled_from(order), max_size=5))
    assembly = LegacyAssembly("a", 1000)
    for index in (*order[:-1], *(i for i in again if i != order[-1])):
        assembly.take(chunk(pieces[index], index, len(pieces)))
        assert not assembly.complete
    assembly.take(chunk(pieces[order[-1]], order[-1], len(pieces)))
    assert assembly.complete
    assert assembly.content() == b"".join(pieces)


@pytest.mark.parametrize(("index", "total"), [(1, 3), (2, 2), (5, 2)])
def test_a_chunk_that_contradicts_the_others_is_refused(index, total):
    assembly = LegacyAssembly("a", 1000)
    assembly.take(chunk(b"x", 0, 2))
    with pytest.raises(IntegrityError):
        assembly.take(chunk(b"x", index, total))


def test_a_binary_over_the_limit_is_refused_before_it_is_whole():
    assembly = LegacyAssembly("a", 10)
    assembly.take(chunk(b"x" * 10, 0, 3))
    with pytest.raises(TooLargeError):
        assembly.take(chunk(b"x", 1, 3))


def test_a_chunk_that_is_not_base64_is_refused():
    with pytest.raises(InvalidRequestError):
        LegacyAssembly("a", 10).take(LegacyChunk(app_name="a", chunk_idx=0, total_chunks=1, data="?"))


async def test_results_stay_on_the_shelf_until_forgotten(tmp_path):
    shelf = Shelf(tmp_path / "legacy")
    await shelf.keep(Kept("../../t", b"{}", b"update"))
    await shelf.keep(Kept("u", b'{"a": 1}'))
    await shelf.keep(Kept("u", b'{"a": 2}'))
    shelf.close()
    again = Shelf(tmp_path / "legacy")
    assert {kept.task_id: kept for kept in await again.left()} == {
        "../../t": Kept("../../t", b"{}", b"update"),
        "u": Kept("u", b'{"a": 2}'),
    }
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "legacy").iterdir()} == {0o600}
    await again.forget("u")
    await again.forget("never kept")
    (tmp_path / "legacy" / "altered.json").write_text('{"task_id": 1}')
    assert [kept.task_id for kept in await again.left()] == ["../../t"]
    again.close()


class Shared:
    """A Propeller manager: starts on the shared topic and keeps what comes back."""

    def __init__(self, bus) -> None:
        self.bus = bus
        self.created = asyncio.Event()
        self.heard: list[str] = []
        self.results: asyncio.Queue[LegacyResult] = asyncio.Queue()
        self.answers: asyncio.Queue[LegacyInvokeResult] = asyncio.Queue()
        self.measured: asyncio.Queue[LegacyMetrics | LegacyTaskMetrics] = asyncio.Queue()

    async def hear(self, message) -> None:
        kind = message.topic.rpartition("/")[2]
        self.heard.append(kind)
        if kind == "create":
            self.created.set()
        if kind == "results":
            self.results.put_nowait(LegacyResult.decode(message.payload))
        if kind in {"metrics", "task_metrics"}:
            said = {"metrics": LegacyMetrics, "task_metrics": LegacyTaskMetrics}[kind]
            self.measured.put_nowait(said.decode(message.payload))
        if kind == "invoke_results":
            self.answers.put_nowait(LegacyInvokeResult.decode(message.payload))

    async def start(self, task_id: str, guest: str, **fields) -> None:
        file = base64.b64encode(wasmtime.wat2wasm(guest)).decode()
        said = LegacyStart(id=task_id, name="_start", file=file, proplet_id=ID, **fields)
        await self.say("start", said)

    async def say(self, kind: str, said: LegacyMessage) -> None:
        await self.bus.publish(NAMES.shared_to_proplets(kind), said.encode(), qos=2)

    async def answer(self) -> LegacyInvokeResult:
        async with asyncio.timeout(PATIENCE):
            return await self.answers.get()

    async def result(self) -> LegacyResult:
        async with asyncio.timeout(PATIENCE):
            return await self.results.get()


@pytest.fixture
async def shared(world, monkeypatch):
    monkeypatch.setattr(presence, "SILENCE_S", 0.05)
    manager = Shared(world.manager.bus)
    await manager.bus.subscribe(NAMES.everything_shared_from_proplets, manager.hear)
    return manager


@asynccontextmanager
async def speaking(world, shared: Shared, **settings):
    async with world.proplet(**settings):
        async with asyncio.timeout(PATIENCE):
            await shared.created.wait()
        yield


async def test_a_proplet_that_hears_an_announcement_never_speaks_on_the_shared_topics(world, shared):
    await world.manager.bus.publish(NAMES.announce, Announce(heartbeat_s=0.02).encode(), retain=True)
    async with world.proplet() as proplet:
        await shared.start("t", prints("hello"))
        await world.manager.until(lambda: len(world.manager.alives) > 10)  # 0.2 s of them
        assert (shared.heard, proplet.legacy.running) == ([], 0)


async def test_beyond_its_queue_a_start_is_refused_with_the_reason(world, shared):
    async with speaking(world, shared, PROPLET_QUEUE="0"):
        await shared.start("first", LOOPS)
        await shared.start("second", LOOPS)
        refused = await shared.result()
        assert refused.task_id == "second"
        assert "here already, running or waiting" in refused.error


async def test_what_a_task_and_the_proplet_use_is_told_on_the_shared_topics(world, shared):
    profile = {"enabled": True, "interval": 1, "collect_disk_io": False}
    async with speaking(world, shared, PROPLET_METRICS_INTERVAL="0.2"), asyncio.timeout(PATIENCE):
        await shared.start("t", LOOPS, monitoring_profile=profile)
        heard = {}
        while len(heard) < 2:
            said = await shared.measured.get()
            heard[type(said)] = said
    assert set(heard[LegacyMetrics].cpu_metrics) == {"user_seconds", "system_seconds", "percent"}
    task = heard[LegacyTaskMetrics]
    assert (task.task_id, task.proplet_id, task.aggregated["sample_count"]) == ("t", ID, 1)
    assert task.metrics["memory_bytes"] > 1 << 20
    assert "disk_read_bytes" not in task.metrics


async def test_an_update_that_cannot_be_posted_is_in_the_result(world, shared, monkeypatch):
    monkeypatch.setattr(delivery, "POST_FOR_S", 0.0)
    world.site.datasets.put(ID, [{"x": [1.0], "y": 1.0}])
    async with speaking(world, shared), world.site.data_store():
        await shared.start("t", prints(json.dumps(UPDATE)), env=LEARNS)
        result = await shared.result()
        assert (result.proplet_id, result.error, result.sender) == (None, None, ID)
        assert json.loads(LegacyLearned.model_validate(result.results).printed())["update"] == UPDATE["update"]


async def test_an_update_that_the_coordinator_refuses_fails_the_task(world, shared):
    world.site.datasets.put(ID, [{"x": [1.0], "y": 1.0}])
    world.site.answers.append((409, {"error": "the round starts from another model", "code": "stale_base"}))
    async with speaking(world, shared), world.site.data_store(), world.site.coordinator():
        await shared.start("t", prints(json.dumps(UPDATE)), env=LEARNS)
        result = await shared.result()
        assert "another model" in result.error
        assert result.results["update_b64"] == ""
        assert world.site.updates[0][0] == ""


async def test_a_latent_task_takes_no_slot_and_its_calls_end_with_it(world, shared, logged):
    async with speaking(world, shared, PROPLET_QUEUE="0"):
        await shared.start("latent", LOOPS, latent=True)
        await logged.until("latent task is ready")
        await shared.start("t", prints("beside"))
        assert (await shared.result()).results == "beside"
        await shared.say("invoke", LegacyInvoke(id="latent", proplet_id=ID, invocation_id="i"))
        await logged.until("looping")
        await shared.say("stop", LegacyStop(id="latent", proplet_id=ID))
        answer = await shared.answer()
        assert (answer.task_id, answer.invocation_id, answer.error) == ("latent", "i", "stopped")


async def test_the_parents_results_reach_the_guest(world, shared):
    async with speaking(world, shared):
        await shared.start("t", cat("parents.json"), parent_results={"p": [1, 2]})
        assert json.loads((await shared.result()).results) == {"p": [1, 2]}
