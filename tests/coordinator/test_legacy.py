"""Updates without a token: the manager says who may send them."""

from __future__ import annotations


async def test_the_manager_vouches_for_each_participant_alone(world):
    world.manager.legacy = {"p-1"}
    await world.configure()
    assert await world.update("p-1", token="") == (200, {"status": "accepted"})
    for refused in ("p-2", "p-3"):
        status, body = await world.update(refused, token="")
        assert (status, body["code"]) == (403, "invalid_token")


async def test_a_wrong_token_is_not_no_token(world):
    world.manager.legacy = {"p-1"}
    await world.configure()
    status, body = await world.update("p-1", token="wrong")
    assert (status, body["code"]) == (403, "invalid_token")


async def test_without_the_manager_nobody_is_let_in_without_a_token(world):
    world.manager.legacy = {"p-1"}
    await world.configure()
    await world.stop("manager")
    status, body = await world.update("p-1", token="")
    assert (status, body["code"]) == (503, "manager_unavailable")
    assert (await world.over(wait=0))["num_updates"] == 0
