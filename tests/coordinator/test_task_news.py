"""What the manager says about the tasks of a round: once, again, and too late."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.live import LiveRounds, News
from coordinator.records import Participant, Round
from coordinator.states import ParticipantEvent, ParticipantState, RoundState
from coordinator.store import RoundStore
from swashplate import logging, service
from swashplate.messages import ExperimentConfig
from swashplate.model_ref import ModelRef

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


async def guests(world: Any) -> Any:
    _, lineage = await world.call("GET", "registry", "/models/1/lineage")
    return lineage["details"]["wasm_digests"]


async def state_of(world: Any, proplet: str, state: str) -> None:
    async with asyncio.timeout(10):
        while True:
            _, view = await world.call("GET", "coordinator", "/rounds/r-1")
            if {p["proplet_id"]: p["state"] for p in view["participants"]}[proplet] == state:
                return


async def handled(world: Any) -> None:
    """Everything that was said before is handled: messages of a pattern are handled in order."""
    await world.configure("r-marker", participants=["p-3"], k_of_n=1)
    world.task_ended("p-3", round_id="r-marker", status="failed")
    await world.over("r-marker")


def say_everything(world: Any, proplet: str) -> None:
    world.task_ended(proplet, status="completed")
    world.task_ended(proplet, status="failed", error="out of memory")
    world.task_ended(proplet, status="interrupted", error="lost its lease")


async def test_news_of_a_participant_that_sent_its_update_changes_nothing(world):
    await world.configure(k_of_n=2)
    await world.update("p-1")
    before = world.rows()
    say_everything(world, "p-1")
    say_everything(world, "p-1")
    await handled(world)
    assert [row for row in world.rows()[1] if row[0] == "r-1"] == before[1]
    assert world.rows()[2] == before[2]
    await world.update("p-2")
    assert (await world.over())["completed"]


async def test_the_same_news_again_changes_nothing(world):
    await world.configure(k_of_n=1)
    world.task_ended("p-1", status="failed", error="out of memory")
    await state_of(world, "p-1", "ended")
    before = world.rows()[1]
    world.task_ended("p-1", status="failed", error="out of memory")
    await handled(world)
    assert [row for row in world.rows()[1] if row[0] == "r-1"] == before


async def test_news_of_a_round_that_is_over_changes_nothing(world):
    await world.configure(k_of_n=1)
    await world.update("p-1")
    assert (await world.over())["completed"]
    await world.until(lambda: len(world.heard) == 2 and world.rows()[0][0][-1] == 1)
    before = world.rows()
    for proplet in ("p-1", "p-2", "p-3"):
        say_everything(world, proplet)
        world.task_ended(proplet, status="completed", digest=DIGEST)
    await handled(world)
    after = world.rows()
    assert after[0][0] == before[0][0]
    assert [row for row in after[1] if row[0] == "r-1"] == before[1]


async def test_news_that_waited_while_the_round_ended_changes_nothing(tmp_path):
    config = ExperimentConfig(
        round_id="r-1", model_ref="fl/models/global_model_v0", participants=["p-1"], task_wasm_image="image"
    )
    over = Round(config, ModelRef("global_model", 0), DIGEST, {}, 1, 0, 60, state=RoundState.FAILED)
    launched = {"p-1": Participant("p-1", ParticipantState.LAUNCHED, task_id="task-1")}
    async with RoundStore(tmp_path) as store:
        await store.add(over, launched.values())
        rounds = LiveRounds(store, service.Tasks(logging.get("test")), lambda: 1.0)
        news = News("p-1", ParticipantEvent.ENDED, task_id="task-1", error="out of memory")
        assert await rounds.hear(rounds.add(over, launched, {}), [news]) == over
        assert await store.find("r-1") == (over, launched)


async def test_another_end_of_a_task_leaves_the_first_reason(world):
    await world.configure(k_of_n=1)
    say_everything(world, "p-1")
    await handled(world)
    _, view = await world.call("GET", "coordinator", "/rounds/r-1")
    assert view["participants"][0]["error"] == "out of memory"


async def test_news_of_a_skipped_participant_changes_nothing(world):
    await world.configure(participants=["p-1", "p-9"], k_of_n=1)
    world.manager.tasks["r-1/p-9"] = {"id": "task-x"}
    before = world.rows()
    say_everything(world, "p-9")
    await handled(world)
    assert [row for row in world.rows()[1] if row[0] == "r-1"] == before[1]


async def test_the_guest_that_a_completed_task_ran_is_in_the_lineage(world):
    await world.configure(k_of_n=2)
    world.task_ended("p-1", status="completed", digest=DIGEST)
    world.task_ended("p-2", status="completed", digest=OTHER)
    await handled(world)
    await world.update("p-1")
    await world.update("p-2")
    assert (await world.over())["completed"]
    assert await guests(world) == [DIGEST, OTHER]


async def test_a_guest_that_is_known_is_not_written_again(world):
    await world.configure()
    world.task_ended("p-1", status="completed", digest=DIGEST)
    await handled(world)
    before = world.rows()[1]
    world.task_ended("p-1", status="completed", digest=DIGEST)
    world.task_ended("p-2", status="completed", digest=DIGEST)
    await world.configure("r-marker-2", participants=["p-3"], k_of_n=1)
    world.task_ended("p-3", round_id="r-marker-2", status="failed")
    await world.over("r-marker-2")
    assert [row for row in world.rows()[1] if row[0] == "r-1"] == [row for row in before if row[0] == "r-1"]


async def test_the_manager_is_asked_for_a_guest_that_nobody_told_of(world):
    await world.configure(k_of_n=2)
    world.manager.tasks["r-1/p-2"]["digest"] = DIGEST
    world.task_ended("p-1", status="failed")
    await world.update("p-2")
    await world.update("p-3")
    assert (await world.over())["completed"]
    assert await guests(world) == [DIGEST]


async def test_a_manager_that_is_away_keeps_no_round_from_completing(world):
    await world.configure(k_of_n=1)
    await world.stop("manager")
    await world.update("p-1")
    assert (await world.over())["completed"]
    assert await guests(world) == []
