"""What the coordinator tells about its rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import pytest


async def test_the_end_of_a_round_wakes_its_waiters(world):
    await world.configure(k_of_n=1)
    waiting = asyncio.create_task(world.over(wait=60))
    await world.update("p-1")
    async with asyncio.timeout(5):
        assert (await waiting)["completed"]


async def test_waiting_ends_with_the_round_still_open(world):
    await world.configure()
    told = await world.over(wait=0.05)
    assert told == {"round_id": "r-1", "completed": False, "num_updates": 0, "k_of_n": 3, "status": "configured"}


async def test_who_asks_while_a_round_is_being_stored_waits_for_its_end_too(world, capsys):
    text = ""

    def said(phrase: str) -> Callable[[], bool]:
        def found() -> bool:
            nonlocal text
            captured = capsys.readouterr()
            text += captured.out + captured.err
            return phrase in text

        return found

    with ExitStack() as storing:
        with world.slow_disk("registry"):
            configuring = asyncio.create_task(world.configure(k_of_n=1))
            await world.until(said("Received experiment configuration"))
            assert (await world.call("GET", "coordinator", "/rounds/r-1"))[0] == 404
            storing.enter_context(world.slow_disk("coordinator"))
        await world.until(said("Loaded initial model from registry"), seconds=4)
        waiting = asyncio.create_task(world.over(wait=60))
        for _ in range(2):  # answered without the database: the request before them has arrived
            assert (await world.call("GET", "coordinator", "/task"))[0] == 400
    await configuring
    await world.update("p-1")
    async with asyncio.timeout(5):
        assert (await waiting)["completed"]


@pytest.mark.parametrize("wait", ["-1", "301", "soon", "nan"])
async def test_a_wrong_wait_is_refused(world, wait):
    await world.configure()
    assert (await world.call("GET", "coordinator", f"/rounds/r-1/complete?wait={wait}"))[0] == 400


@pytest.mark.parametrize("path", ["/rounds/r-9", "/rounds/r-9/complete", "/task?round_id=r-9&proplet_id=p-1"])
async def test_an_unknown_round_is_not_found(world, path):
    status, body = await world.call("GET", "coordinator", path)
    assert (status, body["error"], body["code"]) == (404, "Round not found", "round_not_found")


async def test_a_task_tells_the_round_as_it_was_asked_for(world):
    await world.configure()
    assert await world.call("GET", "coordinator", "/task?round_id=r-1&proplet_id=p-1") == (
        200,
        {
            "task": {
                "round_id": "r-1",
                "model_ref": "fl/models/global_model_v0",
                "config": {"proplet_id": "p-1"},
                "hyperparams": {"epochs": 2, "lr": 0.1},
            }
        },
    )
    assert (await world.call("GET", "coordinator", "/task"))[0] == 400


async def test_a_round_shows_each_participant(world):
    await world.configure(participants=["p-1", "p-2", "p-9"], k_of_n=2)
    await world.update("p-1", samples=7)
    _, view = await world.call("GET", "coordinator", "/rounds/r-1")
    first, second, third = view["participants"]
    assert (first["state"], first["num_samples"], first["metrics"]) == ("updated", 7, {"loss": 0.5})
    assert (second["state"], second["task_id"]) == ("launched", "task-2")
    assert (third["state"], third["error"]) == ("skipped", "not found")
    assert view["created_at"] < first["launched_at"] < first["ended_at"] < view["deadline"]
    assert view["hyperparams"] == {"epochs": 2, "lr": 0.1}


async def test_rounds_are_listed_newest_first(world):
    for n in (1, 2, 3):
        await world.configure(f"r-{n}")
    await world.update("p-1", round_id="r-2")
    _, page = await world.call("GET", "coordinator", "/rounds?offset=1&limit=1")
    assert (page["total"], page["offset"], page["limit"]) == (3, 1, 1)
    assert [(r["round_id"], r["num_updates"]) for r in page["rounds"]] == [("r-2", 1)]
    assert (await world.call("GET", "coordinator", "/rounds?limit=0"))[0] == 400


async def test_the_next_round_is_told_in_the_known_words(world):
    _, before = await world.call("GET", "coordinator", "/rounds/next")
    assert before["next_round_available"] is False
    assert before["message"]
    await world.configure(k_of_n=1)
    await world.update("p-1")
    await world.over()
    assert (await world.call("GET", "coordinator", "/rounds/next"))[1] == {
        "next_round_available": True,
        "last_completed_round": "r-1",
        "new_model_version": 1,
        "model_uri": "fl/models/global_model_v1",
        "status": "ready",
    }


async def test_health_names_what_is_down(world):
    for name in ("coordinator", "registry", "aggregator"):
        assert await world.call("GET", name, "/health") == (200, {"status": "ok"})
    world.bus.drop()
    status, body = await world.call("GET", "coordinator", "/health")
    assert status == 503
    assert list(body["down"]) == ["broker"]
    await world.bus.reconnect()
    assert (await world.call("GET", "coordinator", "/health"))[0] == 200


async def test_a_round_completes_without_a_broker_and_is_announced_when_it_is_back(world):
    await world.configure(k_of_n=1)
    world.bus.drop()
    await world.update("p-1")
    assert (await world.over())["completed"]
    await world.bus.reconnect()
    await world.until(lambda: len(world.heard) == 2)


async def test_every_service_describes_itself(world):
    for name, path in (("coordinator", "/update"), ("registry", "/models/{version}"), ("aggregator", "/aggregate")):
        status, document = await world.call("GET", name, "/openapi.json")
        assert status == 200
        assert path in document["paths"]
