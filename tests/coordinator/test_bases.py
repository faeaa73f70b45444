"""The model that a round starts from: free while nobody trains on it, and then unchangeable."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

OTHER = {"w": [1, 1, 1], "b": 1}
BASE_URI = "fl/models/global_model_v0"


async def replace(world: Any) -> int:
    return (await world.call("POST", "registry", "/models", {"version": 0, "model": OTHER}))[0]


async def is_final(world: Any) -> bool:
    return (await world.call("GET", "registry", "/models/0/description"))[1]["final"]


async def held(world: Any) -> None:
    async with asyncio.timeout(10):
        while not await is_final(world):
            pass


def nothing_is_being_held() -> bool:
    return not any(task.get_name().startswith("hold the base") for task in asyncio.all_tasks())


async def uses(world: Any) -> int:
    async with world.session.get(world.url("registry") + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if "requests_total{" in line and "/uses/" in line)


async def test_a_launched_round_keeps_its_base(world):
    await world.configure()
    await held(world)
    assert await replace(world) == 409


@pytest.mark.parametrize(("participants", "status"), [(["p-8", "p-9"], 409), (["p-1", "p-9"], 201)])
async def test_a_round_that_ends_at_its_launch_leaves_its_base_free(world, participants, status):
    assert (await world.configure(participants=participants, k_of_n=2))[0] == status
    assert (await world.over(wait=0))["status"] in {"cancelled", "failed"}
    assert await replace(world) == 201
    assert await uses(world) == 0


async def test_a_base_that_was_replaced_at_the_launch_fails_the_round(world):
    world.manager.meanwhile = lambda: replace(world)
    await world.configure()
    done = await world.over()
    assert (done["status"], done["code"]) == ("failed", "base_replaced")
    assert BASE_URI in done["error"]
    assert not await is_final(world)


async def test_no_model_is_stored_before_the_base_is_held(world):
    world.manager.meanwhile = lambda: world.stop("registry")
    assert (await world.configure(k_of_n=1))[0] == 201
    assert (await world.update("p-1"))[0] == 200
    assert (await world.over(wait=0.1))["status"] == "aggregating"
    await world.stop("coordinator")
    await world.start("registry")
    await replace(world)
    await world.start("coordinator")
    assert (await world.over())["code"] == "base_replaced"
    assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0]}


async def test_a_restart_before_the_base_was_held_holds_it(world):
    world.manager.meanwhile = lambda: world.stop("registry")
    await world.configure(k_of_n=1)
    await world.stop("coordinator")
    await world.start("registry", "coordinator")
    await world.update("p-1")
    assert (await world.over())["completed"]
    assert await is_final(world)


async def test_an_end_before_the_base_was_held_leaves_it_free(world):
    world.manager.meanwhile = lambda: world.stop("registry")
    await world.configure(timeout_s=0.3)
    assert (await world.over())["code"] == "timeout"
    await world.start("registry")
    await world.until(nothing_is_being_held)
    assert not await is_final(world)


async def test_a_round_that_a_crash_left_before_its_launches_leaves_its_base_free(world):
    world.manager.alive = {"p-1"}
    world.manager.meanwhile = lambda: world.stop("registry")
    await world.configure(participants=["p-1"], k_of_n=1)
    await world.stop("coordinator")
    with closing(sqlite3.connect(world.folder / "coordinator" / "rounds.sqlite3")) as rounds, rounds:
        rounds.execute("UPDATE participants SET state='pending', task_id='', launched_at=NULL")
    world.manager.alive.clear()
    world.manager.tasks.clear()
    await world.start("registry", "coordinator")
    await world.until(lambda: len(world.manager.requests) == 2)
    await world.until(nothing_is_being_held)
    assert not await is_final(world)
    world.manager.alive.add("p-1")
    await held(world)


async def test_a_base_that_is_final_is_not_held_again(world):
    await world.configure(k_of_n=1)
    await world.update("p-1")
    assert (await world.over())["completed"]
    for round_id, version in (("r-2", 0), ("r-3", 1)):
        uri = f"fl/models/global_model_v{version}"
        await world.configure(round_id, model_ref=uri, k_of_n=1)
        await world.update("p-1", round_id=round_id, base_model_uri=uri)
        assert (await world.over(round_id))["completed"]
    assert await uses(world) == 1
