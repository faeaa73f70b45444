"""A round from its request to the next version of the model, and everything that can get in its way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from swashplate.messages import RoundNext


async def completed(world: Any, **changes: Any) -> Any:
    assert (await world.configure(**changes))[0] == 201
    for proplet in ("p-1", "p-2", "p-3"):
        assert (await world.update(proplet))[0] == 200
    return await world.over()


async def test_three_updates_become_the_next_version(world):
    status, told = await world.configure()
    assert status == 201
    assert told == {
        "experiment_id": "e-1",
        "round_id": "r-1",
        "status": "configured",
        "model_version": 0,
        "launched": [{"proplet_id": f"p-{n}", "task_id": f"task-{n}"} for n in (1, 2, 3)],
        "skipped": [],
        "pending": [],
    }
    assert await world.update("p-1", w=[0, 0, 0], b=0, samples=10) == (200, {"status": "accepted"})
    assert await world.update("p-2", w=[1, 2, 3], b=1, samples=10) == (200, {"status": "accepted"})
    assert await world.update("p-3", w=[2, 2, 0.5], b=-1, samples=20) == (200, {"status": "accepted"})
    assert await world.over() == {
        "round_id": "r-1",
        "completed": True,
        "num_updates": 3,
        "k_of_n": 3,
        "status": "completed",
        "model_version": 1,
        "model_uri": "fl/models/global_model_v1",
    }
    assert await world.call("GET", "registry", "/models/1") == (200, {"w": [1.25, 1.5, 1], "b": -0.25})


async def test_the_task_carries_what_the_participant_needs(world):
    await world.configure()
    task = world.manager.sent["r-1/p-1"]
    assert task.name == "fl-round-r-1-p-1"
    assert (task.kind, task.proplet_id, task.retries, task.start) == ("federated", "p-1", 2, True)
    assert task.image_url == "registry.example/fl-client:latest"
    assert task.env["ROUND_ID"] == "r-1"
    assert task.env["MODEL_URI"] == "fl/models/global_model_v0"
    assert json.loads(task.env["HYPERPARAMS"]) == {"epochs": 2, "lr": 0.1}
    assert 55 < task.timeout_s <= 60
    assert len({world.token(p) for p in ("p-1", "p-2", "p-3")}) == 3


async def test_the_lineage_tells_where_the_model_came_from(world):
    await completed(world)
    _, lineage = await world.call("GET", "registry", "/models/1/lineage")
    assert (lineage["parent"], lineage["round_id"]) == (0, "r-1")
    assert lineage["details"]["strategy"] == "fedavg"
    assert lineage["details"]["hyperparams"] == {"epochs": 2, "lr": 0.1}
    assert [u["proplet_id"] for u in lineage["details"]["updates"]] == ["p-1", "p-2", "p-3"]


async def test_the_end_is_announced_below_the_base_and_on_the_bare_topic(world):
    await completed(world)
    await world.until(lambda: len(world.heard) == 2)
    assert sorted(world.topics_heard()) == ["fl/rounds/next", "m/d/c/c/fl/rounds/next"]
    news = RoundNext.decode(world.heard[0].payload)
    assert (news.round_id, news.new_model_version, news.status) == ("r-1", 1, "complete")
    assert news.model_uri == "fl/models/global_model_v1"


async def test_a_refused_bare_topic_disturbs_nothing(world):
    world.bare_allowed = False
    assert (await completed(world))["completed"]
    await world.until(lambda: world.topics_heard() == ["m/d/c/c/fl/rounds/next"])


async def test_the_next_round_starts_from_the_new_version(world):
    await completed(world)
    status, told = await world.configure("r-2", model_ref="fl/models/global_model_v1")
    assert (status, told["model_version"]) == (201, 1)
    for proplet in ("p-1", "p-2", "p-3"):
        await world.update(proplet, round_id="r-2", base_model_uri="fl/models/global_model_v1")
    assert (await world.over("r-2"))["model_version"] == 2


async def test_k_updates_are_enough_and_a_late_one_is_ignored(world):
    await world.configure(k_of_n=2)
    await world.update("p-1", w=[2, 2, 2])
    await world.update("p-2", w=[4, 4, 4])
    done = await world.over()
    assert (done["completed"], done["num_updates"]) == (True, 2)
    assert await world.update("p-3", w=[9, 9, 9]) == (200, {"status": "ignored", "code": "round_closed"})
    assert (await world.call("GET", "registry", "/models/1"))[1]["w"] == [3, 3, 3]
    assert (await world.over())["num_updates"] == 2


async def test_k_defaults_to_every_participant(world):
    await world.configure(k_of_n=None)
    await world.update("p-1")
    await world.update("p-2")
    assert (await world.over(wait=0))["k_of_n"] == 3
    await world.update("p-3")
    assert (await world.over())["completed"]


async def test_a_duplicate_update_is_counted_once(world):
    await world.configure(k_of_n=2)
    assert await world.update("p-1") == (200, {"status": "accepted"})
    assert await world.update("p-1", w=[1.0, 2.0, 3.0], metrics={}) == (200, {"status": "duplicate"})
    assert (await world.over(wait=0))["num_updates"] == 1
    await world.update("p-2")
    await world.over()
    assert await world.update("p-1") == (200, {"status": "duplicate"})


async def test_simultaneous_updates_of_one_participant_count_once(world):
    await world.configure()
    answers = await asyncio.gather(*(world.update("p-1") for _ in range(8)))
    assert sorted(body["status"] for _, body in answers) == ["accepted"] + ["duplicate"] * 7
    assert (await world.over(wait=0))["num_updates"] == 1


async def test_of_simultaneous_updates_as_many_count_as_the_round_wants(world):
    await world.configure(k_of_n=2)
    answers = await asyncio.gather(*(world.update(proplet_id) for proplet_id in ("p-1", "p-2", "p-3")))
    assert sorted(body["status"] for _, body in answers) == ["accepted", "accepted", "ignored"]
    assert (await world.over())["num_updates"] == 2


@pytest.mark.parametrize("change", [{"w": [1, 2, 4]}, {"samples": 11}])
async def test_another_update_of_the_same_participant_is_a_conflict(world, change):
    await world.configure()
    await world.update("p-1")
    status, body = await world.update("p-1", **change)
    assert (status, body["code"]) == (409, "update_conflict")
    _, view = await world.call("GET", "coordinator", "/rounds/r-1")
    assert view["participants"][0]["num_samples"] == 10


async def test_an_update_of_an_unknown_round_creates_nothing(world):
    status, body = await world.update("p-1", round_id="r-unknown", token="x")
    assert (status, body["code"]) == (404, "round_not_found")
    assert (await world.call("GET", "coordinator", "/rounds"))[1]["total"] == 0


async def test_a_stranger_is_refused(world):
    await world.configure()
    status, body = await world.update("p-9", token=world.token("p-1"))
    assert (status, body["code"]) == (403, "not_a_participant")


@pytest.mark.parametrize("token", ["", "wrong", "é"])
async def test_a_wrong_token_is_refused(world, token):
    await world.configure()
    status, body = await world.update("p-1", token=token)
    assert (status, body["code"]) == (403, "invalid_token")


async def test_the_token_of_another_participant_is_refused(world):
    await world.configure()
    status, body = await world.update("p-1", token=world.token("p-2"))
    assert (status, body["code"]) == (403, "invalid_token")
    assert (await world.over(wait=0))["num_updates"] == 0


@pytest.mark.parametrize("uri", ["fl/models/global_model_v1", "fl/models/other_v0", "nonsense"])
async def test_an_update_of_another_base_is_stale(world, uri):
    await world.configure()
    status, body = await world.update("p-1", base_model_uri=uri)
    assert (status, body["code"]) == (409, "stale_base")


async def test_an_update_need_not_name_its_base(world):
    await world.configure()
    assert (await world.update("p-1", base_model_uri=""))[0] == 200


@pytest.mark.parametrize(
    ("update", "named"),
    [
        ({"w": [1, 2], "b": 0}, "w"),
        ({"w": [1, 2, 3, 4], "b": 0}, "w"),
        ({"w": [[1, 2, 3]], "b": 0}, "w"),
        ({"w": [1, 2, 3]}, "b"),
        ({"b": 0}, "w"),
        ({"w": [1, 2, 3], "b": [0]}, "b"),
        ({"w": [1, None, 3], "b": 0}, "w[1]"),
        ({"w": [1, "2", 3], "b": 0}, "w[1]"),
        ({"w": [1, True, 3], "b": 0}, "w[1]"),
        ({"w": [1, 2, 3], "b": 0, "c": 1}, "c"),
        ({"w": None, "b": 0}, "w"),
        ({}, "w"),
    ],
)
async def test_a_malformed_update_is_refused_and_changes_nothing(world, update, named):
    await world.configure()
    status, body = await world.update("p-1", update=update)
    assert status == 400
    assert named in body["error"]
    assert (await world.over(wait=0))["num_updates"] == 0
    assert (await world.update("p-1"))[0] == 200


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
async def test_a_number_that_is_not_finite_is_refused(world, text):
    await world.configure()
    body = f'{{"round_id":"r-1","proplet_id":"p-1","num_samples":1,"update":{{"w":[1,{text},3],"b":0}}}}'
    status, told = await world.call("POST", "coordinator", "/update", body, X_Attempt_Token=world.token("p-1"))
    assert status == 400
    assert told["error"]


@pytest.mark.parametrize("samples", [0, -1, 1.5, "3", None, True, 10**30])
async def test_samples_must_be_a_positive_whole_number(world, samples):
    await world.configure()
    status, body = await world.update("p-1", samples=samples)
    assert status == 400
    assert "num_samples" in body["error"]


async def test_cbor_is_refused_with_a_sentence(world):
    status, body = await world.call("POST", "coordinator", "/update_cbor", "")
    assert status == 415
    assert "CBOR" in body["error"]


async def test_an_average_that_overflows_fails_the_round_and_leaves_the_model(world):
    await world.configure(k_of_n=2)
    await world.update("p-1", w=[1e308, 0, 0], samples=10)
    await world.update("p-2", w=[1e308, 0, 0], samples=10)
    done = await world.over()
    assert (done["completed"], done["status"], done["code"]) == (False, "failed", "invalid_update")
    assert "overflows" in done["error"]
    assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0]}


async def test_the_deadline_below_k_fails_the_round_and_leaves_the_model(world):
    await world.configure(timeout_s=0.5)
    await world.update("p-1")
    await world.update("p-2")
    done = await world.over()
    assert (done["completed"], done["status"], done["code"], done["num_updates"]) == (False, "failed", "timeout", 2)
    assert "2 of 3" in done["error"]
    assert "p-3" in done["error"]
    assert await world.update("p-3") == (200, {"status": "ignored", "code": "round_closed"})
    assert (await world.call("GET", "registry", "/models"))[1] == {"versions": [0]}


async def test_a_round_that_cannot_reach_k_fails_at_once_with_the_reasons(world):
    await world.configure(k_of_n=2)
    await world.update("p-1")
    world.task_ended("p-2", status="failed", error="out of memory")
    world.task_ended("p-3", status="interrupted")
    done = await world.over()
    assert (done["status"], done["code"]) == ("failed", "too_few_participants")
    assert "p-2 (out of memory)" in done["error"]
    assert "p-3" in done["error"]


async def test_an_update_in_hand_outlives_the_failure_of_its_task(world):
    await world.configure(k_of_n=2)
    await world.update("p-1")
    world.task_ended("p-1", status="failed", error="lost its lease")
    world.task_ended("p-2", status="completed")
    await world.update("p-3")
    assert (await world.over())["completed"]


async def test_an_update_after_the_news_of_a_failure_still_counts(world):
    await world.configure(k_of_n=1, participants=["p-1", "p-2"])
    world.task_ended("p-1", status="failed", error="lost its lease")
    view: dict[str, Any] = {}
    async with asyncio.timeout(10):
        while not view or view["participants"][0]["state"] != "ended":
            _, view = await world.call("GET", "coordinator", "/rounds/r-1")
    assert await world.update("p-1") == (200, {"status": "accepted"})
    assert (await world.over())["completed"]


async def test_news_on_the_topic_of_another_participant_is_dropped(world):
    await world.configure(k_of_n=3)
    _, told = await world.configure(k_of_n=3)
    payload = json.dumps(
        {"round_id": "r-1", "proplet_id": "p-1", "task_id": told["launched"][0]["task_id"], "status": "failed"}
    )
    world.broker.publish("p-2", world.topics.round_task("r-1", "p-2"), payload.encode())
    world.broker.publish("p-2", world.topics.round_task("r-1", "p-2"), b"not json")
    for proplet in ("p-1", "p-2", "p-3"):
        await world.update(proplet)
    assert (await world.over())["completed"]


async def test_a_wait_for_a_round_that_is_just_being_configured_lasts_until_its_end(world):
    """It is on the disk a moment before it is known in memory: who asks then must wait as well."""

    async def watch(round_id: str) -> Any:
        while True:
            status, body = await world.call("GET", "coordinator", f"/rounds/{round_id}/complete?wait=20")
            if status == 200:
                return body["status"]

    for round_id in (f"r-{n}" for n in range(10)):
        watching = [asyncio.create_task(watch(round_id)) for _ in range(10)]
        assert (await world.configure(round_id))[0] == 201
        for proplet in ("p-1", "p-2", "p-3"):
            assert (await world.update(proplet, round_id=round_id))[0] == 200
        assert await asyncio.gather(*watching) == ["completed"] * 10
