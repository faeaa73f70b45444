"""Asking for a round: what is checked, who is launched, and what asking twice does."""

from __future__ import annotations

import asyncio

import pytest


async def test_the_same_request_again_gets_the_same_answer_and_launches_nothing(world):
    first = await world.configure()
    again = await world.configure()
    assert (first[0], again[0]) == (201, 200)
    assert again[1] == first[1]
    assert len(world.manager.requests) == 3


async def test_simultaneous_requests_start_one_round(world):
    answers = await asyncio.gather(*(world.configure() for _ in range(5)))
    assert sorted(status for status, _ in answers) == [200, 200, 200, 200, 201]
    assert all(body == answers[0][1] for _, body in answers)
    assert sorted(world.manager.requests) == ["r-1/p-1", "r-1/p-2", "r-1/p-3"]


async def test_another_request_for_the_same_round_is_a_conflict(world):
    await world.configure()
    status, body = await world.configure(timeout_s=61)
    assert (status, body["code"]) == (409, "round_conflict")


async def test_the_answer_does_not_change_after_the_round(world):
    _, first = await world.configure(k_of_n=1)
    await world.update("p-1")
    await world.over()
    assert await world.configure(k_of_n=1) == (200, first)


async def test_an_unknown_model_is_not_found_and_leaves_no_round(world):
    status, body = await world.configure(model_ref="fl/models/global_model_v7")
    assert (status, body["code"]) == (404, "model_not_found")
    assert (await world.call("GET", "coordinator", "/rounds"))[1]["total"] == 0
    assert world.manager.requests == []


async def test_an_unreachable_registry_is_said_and_leaves_no_round(world):
    await world.stop("registry")
    status, body = await world.configure()
    assert (status, body["code"]) == (503, "unavailable")
    assert world.url("registry") in body["error"]
    assert (await world.call("GET", "coordinator", "/rounds"))[1]["total"] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"round_id": ""}, "round_id"),
        ({"round_id": "a/b"}, "round_id"),
        ({"participants": []}, "participants"),
        ({"participants": ["p-1", "p-1"]}, "participants"),
        ({"participants": ["p 1"]}, "participants"),
        ({"k_of_n": 4}, "k_of_n"),
        ({"k_of_n": 0}, "k_of_n"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"task_wasm_image": ""}, "task_wasm_image"),
        ({"model_ref": "nonsense"}, "model reference"),
        ({"surprise": 1}, "surprise"),
        ({"hyperparams": {"big": "x" * 200_000}}, "task of p-1"),
        ({"round_id": "r" * 256}, "name"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(world, change, named):
    body = {**world.config(), **change}
    status, told = await world.call("POST", "coordinator", "/experiments", body)
    assert status == 400
    assert named in told["error"]
    assert (await world.call("GET", "coordinator", "/rounds"))[1]["total"] == 0


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"round_id": NaN}', "\\"])
async def test_a_body_that_is_no_request_is_refused(world, body):
    assert (await world.call("POST", "coordinator", "/experiments", body))[0] == 400


async def test_an_unknown_participant_is_skipped_and_the_others_go_on(world):
    status, told = await world.configure(participants=["p-1", "p-2", "p-9"], k_of_n=2)
    assert status == 201
    assert told["skipped"] == [{"proplet_id": "p-9", "reason": "not found", "code": "proplet_not_found"}]
    await world.update("p-1")
    await world.update("p-2")
    assert (await world.over())["completed"]


async def test_too_many_unknown_participants_fail_the_round_at_once(world):
    status, told = await world.configure(participants=["p-1", "p-8", "p-9"], k_of_n=2)
    assert (status, told["status"]) == (201, "failed")
    done = await world.over(wait=0)
    assert done["code"] == "too_few_participants"
    assert "p-9 (not found)" in done["error"]


async def test_a_round_that_nobody_takes_part_in_is_cancelled(world):
    world.manager.alive = set()
    status, told = await world.configure(participants=["p-1", "p-9"], k_of_n=1)
    assert (status, told["code"]) == (409, "no_participants")
    assert "p-1 (p-1 is not alive)" in told["error"]
    assert "p-9 (not found)" in told["error"]
    assert "PROPLET_CLIENT_ID" in told["hint"]
    assert (await world.over(wait=0))["status"] == "cancelled"
    requests = list(world.manager.requests)
    assert await world.configure(participants=["p-1", "p-9"], k_of_n=1) == (status, told)
    assert world.manager.requests == requests


async def test_no_manager_means_no_participants(world):
    await world.stop("manager")
    status, told = await world.configure()
    assert (status, told["code"]) == (409, "no_participants")
    assert world.url("manager") in told["error"]


async def test_a_participant_that_comes_back_is_launched_and_counts(world):
    world.manager.alive = {"p-1", "p-2"}
    status, told = await world.configure()
    assert status == 201
    assert told["pending"] == [{"proplet_id": "p-3", "reason": "p-3 is not alive", "code": "proplet_not_alive"}]
    await world.update("p-1")
    await world.update("p-2")
    world.manager.alive.add("p-3")
    await world.until(lambda: "r-1/p-3" in world.manager.sent)
    assert await world.update("p-3") == (200, {"status": "accepted"})
    assert (await world.over())["completed"]


async def test_an_odd_round_id_survives_the_way_to_the_registry(world):
    odd = "r?1%2F&ü"
    assert (await world.configure(odd, k_of_n=1))[0] == 201
    assert (await world.update("p-1", round_id=odd))[0] == 200
    _, page = await world.call("GET", "coordinator", "/rounds")
    assert page["rounds"][0]["round_id"] == odd
    await world.until(lambda: len(world.heard) == 2)
    _, lineage = await world.call("GET", "registry", "/models/1/lineage")
    assert lineage["round_id"] == odd
