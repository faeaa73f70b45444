"""What is given to a proplet before it has a slot for it: so little work that nobody of a higher priority waits long behind."""

import asyncio

from manager.work.load import AHEAD_PER_SLOT
from manager.work.pace import SHORT_S, Paces
from tests.manager.conftest import PATIENCE

OTHER = "sha256:" + "cd" * 32


def test_a_binary_is_short_while_its_runs_are_and_at_once_no_longer():
    paces = Paces()
    assert not paces.short("a")
    paces.took("a", 0.01)
    assert paces.short("a")
    assert not paces.short("b")
    paces.took("a", 30.0)
    assert not paces.short("a")
    for _ in range(30):
        paces.took("a", 0.01)
    assert paces.short("a")


def test_so_much_work_waits_at_most():
    assert AHEAD_PER_SLOT * SHORT_S <= 1.0


async def quick(world, manager, proplet):
    """Tasks of one binary that end at once, until the proplet is given more than it has slots."""
    async with asyncio.timeout(PATIENCE):
        while [each.room for each in manager.load.candidates()] != [1 + AHEAD_PER_SLOT]:
            task = await world.launch()
            await proplet.result(await proplet.started())
            await world.ended(task["id"])


async def test_short_tasks_wait_at_their_proplet_and_a_priority_overtakes_all_others(world):
    async with world.manager() as manager, world.proplet("p1", slots=1, queue=64) as p1:
        await quick(world, manager, p1)
        for _ in range(20):
            await world.launch()
        starts = [await p1.started() for _ in range(1 + AHEAD_PER_SLOT)]
        for start in starts:
            await p1.status(start, "accepted")
        urgent = await world.launch(priority=100)
        for start in starts:
            await p1.result(start)
        assert (await p1.started()).id == urgent["id"]


async def test_what_may_take_long_is_not_given_before_there_is_a_slot(world):
    world.proxy.images["registry/long:1"] = OTHER
    async with world.manager() as manager, world.proplet("p1", slots=1, queue=64) as p1:
        await quick(world, manager, p1)
        for _ in range(5):
            await world.launch(image_url="registry/long:1")
        running = await p1.started()
        await p1.acknowledged(await p1.status(running, "accepted"))
        urgent = await world.launch(priority=100)
        shown = await world.until(lambda shown: shown.get("waiting"), f"/tasks/{urgent['id']}")
        assert shown["waiting"] == "the only proplet has no free slot"
        world.ahead_s += 10
        await p1.result(running)
        assert (await p1.started()).id == urgent["id"]
        assert p1.starts.empty()


async def test_nothing_waits_behind_a_daemon(world):
    async with world.manager() as manager, world.proplet("p1", slots=1, queue=64) as p1:
        await quick(world, manager, p1)
        await world.launch(daemon=True)
        await p1.acknowledged(await p1.status(await p1.started(), "accepted"))
        short = await world.launch()
        await world.until(lambda shown: "no free slot" in shown.get("waiting", ""), f"/tasks/{short['id']}")
        async with world.proplet("p2") as p2:
            assert (await p2.started()).id == short["id"]
        assert p1.starts.empty()
