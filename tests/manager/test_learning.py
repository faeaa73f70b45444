"""The façade: what it forwards, what it logs, and what it tells the coordinator."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import structlog
from aiohttp import web

from manager import learning
from swashplate.bus import MemoryBus, Received
from swashplate.errors import ConflictError, NotFoundError
from swashplate.http import HttpService, Route, answer
from swashplate.messages import ExperimentConfig, RoundTask
from swashplate.topics import ROUND_START, Topics

NAMES = Topics("d", "c")
CONFIG = {
    "experiment_id": "e",
    "round_id": "r1",
    "model_ref": "fl/models/global_model_v0",
    "participants": ["p1", "p2"],
    "hyperparams": {"lr": 0.1},
    "k_of_n": 2,
    "timeout_s": 30,
    "task_wasm_image": "registry/image:1",
}
START = {
    **{k: v for k, v in CONFIG.items() if k not in {"model_ref", "experiment_id"}},
    "model_uri": CONFIG["model_ref"],
}
FEDERATED = {"kind": "federated", "env": {"ROUND_ID": "r1"}, "proplet_id": "p1"}


class FakeCoordinator:
    """Answers as the test says and remembers what it was asked."""

    def __init__(self) -> None:
        self.experiments: asyncio.Queue[ExperimentConfig] = asyncio.Queue()
        self.updates: list[tuple[str | None, dict]] = []
        self.refusal = None

    @asynccontextmanager
    async def serving(self, url: str):
        routes = [
            Route("POST", "/experiments", self._configure, "Configure"),
            Route("GET", "/rounds/{id}/complete", self._complete, "Over?"),
            Route("GET", "/task", self._task, "Task"),
            Route("POST", "/update", self._update, "Update"),
        ]
        async with HttpService("fake", routes).serving("127.0.0.1", int(url.rpartition(":")[2])):
            yield self

    async def _configure(self, request: web.Request) -> web.Response:
        config = ExperimentConfig.decode(await request.read())
        self.experiments.put_nowait(config)
        if self.refusal is not None:
            raise self.refusal
        body = {
            "experiment_id": config.experiment_id,
            "round_id": config.round_id,
            "status": "configured",
            "launched": [{"proplet_id": "p1", "task_id": "t1"}],
            "skipped": [{"proplet_id": "p2", "reason": "not found", "code": "proplet_not_found"}],
        }
        return answer(body, status=201)

    async def _complete(self, request: web.Request) -> web.Response:
        if request.match_info["id"] != "r1":
            raise NotFoundError("Round not found", code="round_not_found")
        return answer({"round_id": "r1", "completed": True, "num_updates": 2, "k_of_n": 2})

    async def _task(self, request: web.Request) -> web.Response:
        return answer({"task": dict(request.query)})

    async def _update(self, request: web.Request) -> web.Response:
        self.updates.append((request.headers.get("X-Attempt-Token"), json.loads(await request.read())))
        return answer({"status": "accepted"})


@pytest.fixture
async def coordinator(world):
    async with FakeCoordinator().serving(world.coordinator_url) as found:
        yield found


async def test_an_experiment_is_forwarded_and_the_answer_tells_who_was_launched(world, coordinator):
    async with world.manager():
        status, body = await world.call("POST", "/fl/experiments", CONFIG)
        assert status == 200
        assert {k: body[k] for k in ("experiment_id", "round_id", "status")} == {
            "experiment_id": "e",
            "round_id": "r1",
            "status": "configured",
        }
        assert body["launched"] == [{"proplet_id": "p1", "task_id": "t1"}]
        assert body["skipped"][0]["code"] == "proplet_not_found"
        assert await coordinator.experiments.get() == ExperimentConfig(**CONFIG)


async def test_the_coordinators_refusal_is_passed_on_as_it_is(world, coordinator):
    coordinator.refusal = ConflictError("the round exists", code="round_conflict")
    async with world.manager():
        status, body = await world.call("POST", "/fl/experiments", CONFIG)
        assert (status, body["code"]) == (409, "round_conflict")


async def test_a_wrong_experiment_is_refused_before_it_is_forwarded(world, coordinator):
    async with world.manager():
        status, body = await world.call("POST", "/fl/experiments", {**CONFIG, "k_of_n": 3})
        assert status == 400
        assert "k_of_n" in body["error"]
        assert coordinator.experiments.empty()


async def test_an_absent_coordinator_is_a_503_that_names_it(world):
    async with world.manager():
        status, body = await world.call("POST", "/fl/experiments", CONFIG)
        assert (status, body["code"]) == (503, "coordinator_unavailable")
        assert world.coordinator_url in body["error"]


async def test_the_state_of_a_round_is_forwarded_in_the_contracts_wrapper(world, coordinator):
    async with world.manager():
        status, body = await world.call("GET", "/fl/rounds/r1/complete")
        assert (status, body["status"]["num_updates"]) == (200, 2)
        assert (await world.call("GET", "/fl/rounds/other/complete"))[0] == 404


async def test_an_update_keeps_its_token_on_the_way(world, coordinator):
    async with world.manager():
        status, _ = await world.call("POST", "/fl/update", {"round_id": "r1"}, **{"X-Attempt-Token": "secret"})
        assert status == 200
        assert coordinator.updates == [("secret", {"round_id": "r1"})]


async def test_a_task_question_without_a_round_is_a_400(world, coordinator):
    async with world.manager():
        assert (await world.call("GET", "/fl/task?proplet_id=p1"))[0] == 400
        assert (await world.call("GET", "/fl/task?round_id=r1&proplet_id=p1"))[1]["task"]["round_id"] == "r1"


@pytest.mark.parametrize("topic", [ROUND_START, NAMES.round_start])
async def test_a_round_can_be_started_by_a_message_bare_or_below_the_base(world, coordinator, topic):
    async with world.manager(), MemoryBus(world.broker, client_id="user") as user:
        await user.publish(topic, json.dumps(START).encode(), qos=0)
        config = await asyncio.wait_for(coordinator.experiments.get(), 10)
        assert (config.k_of_n, config.timeout_s, config.hyperparams) == (2, 30, {"lr": 0.1})
        assert config.model_ref == CONFIG["model_ref"]


async def test_a_round_message_waits_for_a_coordinator_that_is_starting(world):
    async with world.manager(), MemoryBus(world.broker, client_id="user") as user:
        await user.publish(ROUND_START, json.dumps(START).encode())
        async with FakeCoordinator().serving(world.coordinator_url) as late:
            assert (await asyncio.wait_for(late.experiments.get(), 10)).round_id == "r1"


async def test_a_malformed_round_message_starts_nothing_and_stops_nothing(world, coordinator):
    async with world.manager(), MemoryBus(world.broker, client_id="user") as user:
        for bad in (
            b"{",
            b"[]",
            json.dumps({**START, "k_of_n": 9}).encode(),
            json.dumps({**START, "round_id": "a/b"}).encode(),
        ):
            await user.publish(ROUND_START, bad)
        await user.publish(ROUND_START, json.dumps(START).encode())
        assert (await asyncio.wait_for(coordinator.experiments.get(), 10)).k_of_n == 2
        assert coordinator.experiments.empty()


async def test_the_end_of_a_rounds_task_is_told_on_the_rounds_topic(world, coordinator):
    said: asyncio.Queue[RoundTask] = asyncio.Queue()

    async def hear(message: Received) -> None:
        assert message.topic == NAMES.round_task("r1", "p1")
        said.put_nowait(RoundTask.decode(message.payload))

    async with world.manager(), MemoryBus(world.broker, client_id="coordinator") as bus, world.proplet("p1") as p1:
        await bus.subscribe(NAMES.every_round_task, hear)
        task = await world.launch(**FEDERATED)
        await p1.result(await p1.started(), error="no rows", code="dataset_not_found", retryable=False)
        told = await asyncio.wait_for(said.get(), 10)
        assert (told.task_id, told.status, told.code, told.error) == (
            task["id"],
            "failed",
            "dataset_not_found",
            "no rows",
        )


async def test_an_end_shortly_before_a_restart_is_told_again(world, coordinator):
    """The manager may die between recording the end and telling it."""
    said: asyncio.Queue[RoundTask] = asyncio.Queue()

    async def hear(message: Received) -> None:
        said.put_nowait(RoundTask.decode(message.payload))

    async with MemoryBus(world.broker, client_id="coordinator") as bus:
        await bus.subscribe(NAMES.every_round_task, hear)
        async with world.manager(), world.proplet("p1") as p1:
            task = await world.launch(**FEDERATED)
            await p1.result(await p1.started(), {"update": "accepted"})
            await asyncio.wait_for(said.get(), 10)
        async with world.manager():
            told = await asyncio.wait_for(said.get(), 10)
            assert (told.task_id, told.status, told.digest) == (task["id"], "completed", "sha256:" + "ab" * 32)


async def test_launched_and_skipped_participants_are_logged_as_the_guide_says(world, coordinator):
    with structlog.testing.capture_logs() as lines:
        async with world.manager(), world.proplet("p1"):
            task = await world.launch(**FEDERATED)
            body = {"name": "t", "image_url": "r/i", "start": True, **FEDERATED, "proplet_id": "proplet-1"}
            assert (await world.call("POST", "/tasks", body))[0] == 404
    launched = [line for line in lines if line["event"] == "launched task for FL round participant"]
    assert [(line["proplet_id"], line["task_id"], line["round_id"]) for line in launched] == [("p1", task["id"], "r1")]
    skipped = [line for line in lines if line["event"] == "skipping participant: proplet not found"]
    assert [(line["proplet_id"], line["error"], line["log_level"]) for line in skipped] == [
        ("proplet-1", "not found", "warning")
    ]
    assert "PROPLET_CLIENT_ID" in skipped[0]["hint"]


async def test_tokens_of_a_task_are_never_shown(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(tokens={"update": "very secret"})
        tokens = (await p1.started()).tokens
        assert tokens["update"] == "very secret"
        _, shown = await world.call("GET", f"/tasks/{task['id']}")
        assert not any(token in json.dumps([task, shown]) for token in tokens.values())


async def test_an_end_is_told_however_long_the_broker_was_away(world, coordinator, monkeypatch):
    """A publish is given up after a while; the news is not."""
    monkeypatch.setattr(learning, "AGAIN_S", 0.01)
    monkeypatch.setattr(MemoryBus, "publish_timeout", 0.05)
    said: asyncio.Queue[RoundTask] = asyncio.Queue()

    async def hear(message: Received) -> None:
        said.put_nowait(RoundTask.decode(message.payload))

    async with world.manager(), MemoryBus(world.broker, client_id="coordinator") as bus, world.proplet("p1") as p1:
        await bus.subscribe(NAMES.every_round_task, hear)
        task = await world.launch(**FEDERATED)
        start = await p1.started()
        managers = world.broker._online["manager"]
        with structlog.testing.capture_logs() as lines:
            await p1.result(start, {"update": "accepted"})
            managers.drop()
            async with asyncio.timeout(10):
                while not any(line["event"].startswith("end not told") for line in lines):
                    await asyncio.sleep(0.005)
        await managers.reconnect()
        assert (await asyncio.wait_for(said.get(), 10)).task_id == task["id"]
