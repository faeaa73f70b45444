"""The aggregator over HTTP: an average, or a sentence; never a model of zeros, nulls or NaN."""

from __future__ import annotations

import pytest

from coordinator import aggregator
from coordinator.settings import AggregatorSettings


def update(proplet="p-1", samples=1, w=(1.0, 2.0), b=0.5, **more: object):
    return {"proplet_id": proplet, "num_samples": samples, "update": {"w": list(w), "b": b, **more}}


async def aggregate(world, updates):
    return await world.call("POST", "aggregator", "/aggregate", {"updates": updates})


async def test_updates_are_averaged_by_their_samples(world):
    updates = [update("p-1", 10, (1, 2), 3), update("p-2", 20, (4, 5), 6)]
    assert await aggregate(world, updates) == (200, {"w": [3, 4], "b": 5})


async def test_further_tensors_are_averaged_too(world):
    updates = [update("p-1", 1, m=[[0, 2], [4, 6]]), update("p-2", 1, m=[[2, 2], [2, 2]])]
    assert (await aggregate(world, updates))[1]["m"] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("nobody", [{}, {"updates": []}, {"updates": None}, {"updates": {}}])
async def test_no_updates_is_an_error(world, nobody):
    status, body = await world.call("POST", "aggregator", "/aggregate", nobody)
    assert (status, body["error"]) == (400, "No updates provided")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "[" * 10_000])
async def test_a_body_that_is_no_object_is_refused(world, text):
    assert (await world.call("POST", "aggregator", "/aggregate", text))[0] == 400


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (update("p-2", 0), "num_samples"),
        (update("p-2", -3), "num_samples"),
        (update("p-2", 1.5), "num_samples"),
        (update("p-2", True), "num_samples"),
        (update("p-2", None), "num_samples"),
        (update("p-2", 10**400), "num_samples"),
        (update("p-2", 1, (1,)), "w has shape [1], expected [2]"),
        (update("p-2", 1, (1, 2, 3)), "w has shape [3], expected [2]"),
        (update("p-2", 1, ()), "w must not be empty"),
        (update("p-2", 1, (1, None)), "w[1]"),
        (update("p-2", 1, (1, "2")), "w[1]"),
        (update("p-2", 1, (1, [2])), "ragged"),
        (update("p-2", 1, (1, 2), None), "b must be a number"),
        (update("p-2", 1, (1, 2), [1]), "b must be a number"),
        (update("p-2", 1, c=1), "c is not part of the model"),
        ({"proplet_id": "p-2", "num_samples": 1, "update": {"w": [1, 2]}}, "b is missing"),
        ({"proplet_id": "p-2", "num_samples": 1, "update": {"b": 1}}, "w is missing"),
        ({"proplet_id": "p-2", "num_samples": 1}, "update must be an object, got null"),
        (update("p-2", 1, (10**400, 2)), "too large"),
    ],
)
async def test_a_wrong_update_is_named_with_its_reason(world, second, reason):
    status, body = await aggregate(world, [update("p-1"), second])
    assert status == 400
    assert "updates[1] (p-2)" in body["error"]
    assert reason in body["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
async def test_a_number_that_is_not_finite_is_refused(world, number):
    text = f'{{"updates":[{{"proplet_id":"p-1","num_samples":1,"update":{{"w":[0,{number}],"b":0}}}}]}}'
    status, body = await world.call("POST", "aggregator", "/aggregate", text)
    assert status == 400
    assert "w[1] is not finite" in body["error"]


async def test_an_overflow_is_refused(world):
    status, body = await aggregate(world, [update("p-1", 100, (1e308, 0))])
    assert status == 400
    assert "overflows" in body["error"]


async def test_one_participant_twice_is_refused(world):
    assert (await aggregate(world, [update("p-1"), update("p-1")]))[0] == 400


async def test_something_that_is_no_update_is_refused(world):
    status, body = await aggregate(world, [update(), 7])
    assert (status, body["error"]) == (400, "updates[1] must be an object")


async def test_updates_over_the_limit_are_refused_and_the_limit_is_a_setting(world):
    limit = AggregatorSettings.load({"AGGREGATOR_BODY_LIMIT": "200"}).body_limit
    await world.stop("aggregator")
    async with aggregator.http_service(limit).serving("127.0.0.1", world.ports["aggregator"]):
        assert (await aggregate(world, [update("p-1")]))[0] == 200
        status, body = await aggregate(world, [update(f"p-{n}") for n in range(10)])
    assert (status, body["code"]) == (413, "too_large")
    assert "200 bytes" in body["error"]
