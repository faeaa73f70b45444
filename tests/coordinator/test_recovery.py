"""The coordinator dies at any point and comes back over the same files."""

from __future__ import annotations

import sqlite3

import pytest


async def restart(world) -> None:
    await world.stop("coordinator")
    await world.start("coordinator")


def noted_as_announced(world) -> bool:
    with sqlite3.connect(world.folder / "coordinator" / "rounds.sqlite3") as rounds:
        return rounds.execute("SELECT announced FROM rounds").fetchone() == (1,)


async def test_updates_before_a_restart_are_neither_lost_nor_counted_twice(world):
    await world.configure()
    await world.update("p-1", w=[1, 1, 1])
    await world.update("p-2", w=[2, 2, 2])
    await restart(world)
    assert (await world.over(wait=0))["num_updates"] == 2
    assert await world.update("p-2", w=[2, 2, 2]) == (200, {"status": "duplicate"})
    assert await world.update("p-3", w=[3, 3, 3]) == (200, {"status": "accepted"})
    done = await world.over()
    assert (done["completed"], done["num_updates"]) == (True, 3)
    assert (await world.call("GET", "registry", "/models/1"))[1]["w"] == [2, 2, 2]


async def test_a_restart_asks_for_the_same_tasks_under_the_same_keys_and_tokens(world):
    await world.configure()
    token = world.token("p-1")
    await world.update("p-2")
    await restart(world)
    await world.until(lambda: len(world.manager.requests) == 5)
    assert sorted(world.manager.requests[3:]) == ["r-1/p-1", "r-1/p-3"]
    assert len(world.manager.tasks) == 3
    assert (await world.update("p-1", token=token))[0] == 200


async def test_a_task_that_failed_during_the_restart_is_noticed(world):
    await world.configure()
    await world.stop("coordinator")
    world.manager.tasks["r-1/p-1"].update(status="Failed", error="out of memory")
    await world.start("coordinator")
    assert "p-1 (out of memory)" in (await world.over())["error"]


async def test_news_that_was_sent_during_the_restart_arrives(world):
    await world.configure()
    await world.stop("coordinator")
    world.task_ended("p-1", status="failed", error="out of memory")
    await world.start("coordinator")
    assert (await world.over())["code"] == "too_few_participants"


async def test_a_pending_participant_is_tried_again_after_a_restart(world):
    world.manager.alive = {"p-1", "p-2"}
    await world.configure()
    await world.stop("coordinator")
    world.manager.alive.add("p-3")
    await world.start("coordinator")
    await world.until(lambda: "r-1/p-3" in world.manager.sent)


async def test_the_same_request_after_a_restart_gets_the_same_answer(world):
    _, first = await world.configure()
    await restart(world)
    assert await world.configure() == (200, first)


async def test_a_deadline_that_passed_during_the_restart_ends_the_round(world):
    await world.configure(timeout_s=0.3)
    await world.stop("coordinator")
    await world.start("coordinator")
    assert (await world.over())["code"] == "timeout"


@pytest.mark.parametrize("missing", ["aggregator", "registry"])
async def test_aggregation_waits_for_a_service_that_is_away(world, missing):
    await world.configure()
    await world.stop(missing)
    for proplet in ("p-1", "p-2", "p-3"):
        assert (await world.update(proplet))[0] == 200
    assert (await world.over(wait=0.1))["status"] == "aggregating"
    await world.start(missing)
    assert (await world.over())["model_version"] == 1


async def test_an_interrupted_aggregation_goes_on_after_a_restart(world):
    await world.configure(k_of_n=2)
    await world.stop("aggregator")
    await world.update("p-1", w=[1, 1, 1])
    await world.update("p-3", w=[3, 3, 3])
    await world.stop("coordinator")
    await world.start("aggregator", "coordinator")
    assert (await world.over())["completed"]
    assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0, 1]}
    assert (await world.call("GET", "registry", "/models/1"))[1]["w"] == [2, 2, 2]


async def test_a_model_stored_just_before_a_crash_is_not_stored_twice(world):
    await world.configure(k_of_n=1)
    await world.update("p-1")
    await world.over()
    await world.until(lambda: noted_as_announced(world))
    await world.stop("coordinator")
    with sqlite3.connect(world.folder / "coordinator" / "rounds.sqlite3") as rounds:  # as if it had not been written
        rounds.execute("UPDATE rounds SET state='aggregating', model_version=NULL, finished_at=NULL, announced=0")
    await world.start("coordinator")
    assert (await world.over())["model_version"] == 1
    assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0, 1]}


async def test_an_announcement_that_was_not_made_is_made_after_a_restart(world):
    await world.configure(k_of_n=1)
    await world.update("p-1")
    await world.over()
    await world.until(lambda: noted_as_announced(world))
    await world.stop("coordinator")
    with sqlite3.connect(world.folder / "coordinator" / "rounds.sqlite3") as rounds:
        rounds.execute("UPDATE rounds SET announced=0")
    await world.start("coordinator")
    await world.until(lambda: len(world.heard) == 4)
    await world.until(lambda: noted_as_announced(world))
    await restart(world)
    assert (await world.call("GET", "coordinator", "/health"))[0] == 200
    assert len(world.heard) == 4


async def test_large_updates_are_kept_outside_the_database_and_survive(world):
    size = 20_000
    model = {"w": [0.0] * size, "b": 0}
    await world.call("POST", "registry", "/lines/wide/models", {"version": 0, "model": model})
    uri = "fl/models/wide_v0"
    await world.configure(model_ref=uri, k_of_n=2)
    await world.update("p-1", w=[0.25 + i for i in range(size)], base_model_uri=uri)
    await restart(world)
    await world.update("p-2", w=[0.75 + i for i in range(size)], base_model_uri=uri)
    done = await world.over()
    assert done["model_uri"] == "fl/models/wide_v1"
    _, stored = await world.call("GET", "registry", "/lines/wide/models/1")
    assert stored["w"] == [0.5 + i for i in range(size)]
    assert len(list((world.folder / "coordinator" / "blobs").iterdir())) == 2


async def test_no_token_is_on_the_disk(world):
    await world.configure()
    await world.update("p-1")
    tokens = [world.token(p).encode() for p in ("p-1", "p-2", "p-3")]
    for file in (world.folder / "coordinator").rglob("*"):
        if file.is_file():
            assert not any(token in file.read_bytes() for token in tokens)
    assert (world.folder / "coordinator" / "token-key").stat().st_mode & 0o077 == 0


async def test_the_log_has_the_lines_that_operators_look_for(world, capsys):
    await world.configure(k_of_n=2)
    await world.update("p-1")
    await world.update("p-2")
    await world.over()
    await world.configure("r-2", timeout_s=0.2)
    await world.over("r-2")
    await world.until(lambda: len(world.heard) == 2)
    text = capsys.readouterr()
    for line in (
        "Received experiment configuration",
        "Loaded initial model from registry",
        "Experiment configured and round initialized",
        "Received update",
        "Round complete: received k_of_n updates",
        "Calling aggregator service",
        "Aggregated model stored",
        "Published round completion notification to MQTT",
        "Round timeout exceeded",
    ):
        assert line in text.out + text.err
