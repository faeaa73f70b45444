"""A database that cannot write for a while, and an aggregator that is broken for good."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from coordinator import retrying
from swashplate.http import HttpService, Route

HOST = "127.0.0.1"


@pytest.fixture
def tried(capsys):
    """Has the coordinator said that it tries again what failed because of the database?"""
    text = ""

    def said() -> bool:
        nonlocal text
        found = capsys.readouterr()
        text += found.out + found.err
        return any("no answer, trying again" in line and "peer=database" in line for line in text.splitlines())

    return said


async def test_updates_that_cannot_be_read_for_a_while_are_aggregated_later(world, tried):
    await world.configure(k_of_n=1)
    await world.stop("aggregator")
    await world.update("p-1")
    await world.stop("coordinator")
    await world.start("aggregator")
    with world.broken("updates", "body"):
        await world.start("coordinator")
        await world.until(tried)
    assert (await world.over())["completed"]


async def test_a_blob_that_cannot_be_read_for_a_while_is_aggregated_later(world, tried):
    size = 20_000
    await world.call("POST", "registry", "/lines/wide/models", {"version": 0, "model": {"w": [0.0] * size, "b": 0}})
    uri = "fl/models/wide_v0"
    await world.configure(model_ref=uri, k_of_n=1)
    await world.stop("aggregator")
    await world.update("p-1", w=[0.25 + i for i in range(size)], base_model_uri=uri)
    await world.stop("coordinator")
    (blob,) = (world.folder / "coordinator" / "blobs").iterdir()
    away = blob.rename(world.folder / "away")
    blob.mkdir()
    await world.start("aggregator", "coordinator")
    await world.until(tried)
    blob.rmdir()
    away.rename(blob)
    assert (await world.over())["completed"]


async def test_a_stored_model_whose_round_cannot_be_written_completes_it_later(world, tried):
    await world.configure(k_of_n=1)
    await world.stop("aggregator")
    await world.update("p-1")
    with world.broken("rounds", "model_digest"):
        await world.start("aggregator")
        await world.until(tried)
        assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0, 1]}
        assert (await world.over(wait=0))["status"] == "aggregating"
    assert (await world.over())["model_version"] == 1


async def test_a_deadline_that_cannot_be_written_ends_the_round_later(world, tried):
    await world.configure(timeout_s=0.3)
    with world.broken("rounds", "code"):
        await world.until(tried)
        assert (await world.over(wait=0))["status"] == "configured"
    assert (await world.over(wait=10))["code"] == "timeout"


async def test_the_end_of_a_task_that_cannot_be_written_is_not_forgotten(world, tried):
    await world.configure()
    with world.broken("participants", "error"):
        world.task_ended("p-1", status="failed", error="out of memory")
        await world.until(tried)
    assert "p-1 (out of memory)" in (await world.over(wait=10))["error"]


async def test_launches_that_cannot_be_written_are_made_again(world):
    with ExitStack() as broken:

        async def fail() -> None:
            broken.enter_context(world.broken("participants", "task_id"))

        world.manager.meanwhile = fail
        status, told = await world.configure()
        assert (status, told["code"]) == (503, "database_unavailable")
    view: dict[str, Any] = {"participants": []}
    async with asyncio.timeout(10):
        while {p["state"] for p in view["participants"]} != {"launched"}:
            _, view = await world.call("GET", "coordinator", "/rounds/r-1")
    assert len(world.manager.tasks) == 3
    status, told = await world.configure()
    assert (status, len(told["launched"])) == (200, 3)


async def test_an_aggregator_that_is_broken_for_good_fails_the_round(world, monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.01)
    asked = []

    async def stumble(request):
        asked.append(request)
        raise RuntimeError("a bug")

    await world.stop("aggregator")
    routes = [Route("POST", "/aggregate", stumble, "Never succeeds")]
    async with HttpService("aggregator", routes).serving(HOST, world.ports["aggregator"]):
        await world.configure(k_of_n=1)
        await world.update("p-1")
        done = await world.over()
    assert (done["status"], done["code"]) == ("failed", "internal")
    assert "the aggregator failed 5 times: internal error" in done["error"]
    assert len(asked) == 5
