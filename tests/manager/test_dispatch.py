from swashplate.bus import MemoryBus
from swashplate.messages import Alive, PropletCreate
from tests.manager.conftest import NAMES


async def test_why_a_task_waits_is_told_of_a_large_fleet_too_and_follows_it(world):
    bus = MemoryBus(world.broker, client_id="fleet")

    async def join(number):
        proplet = PropletCreate(proplet_id=f"p{number}", instance="i")
        await bus.publish(NAMES.proplet(proplet.proplet_id, "create"), proplet.encode())

    async with world.manager(), bus:
        for number in range(150):
            await join(number)
        await world.until(lambda page: page["total"] == 150, "/proplets")
        tasks = [await world.launch(selector={"gpu": label}) for label in ("yes", "yes", "no")]
        for task, label in zip(tasks, ("yes", "yes", "no"), strict=True):
            shown = await world.until(lambda shown: "lack" in shown["waiting"], f"/tasks/{task['id']}")
            assert shown["waiting"] == f"all 150 proplets lack label gpu={label}"
        await join(150)
        await world.until(lambda shown: "all 151" in shown["waiting"], f"/tasks/{tasks[0]['id']}")


async def test_who_has_less_room_than_before_but_what_was_lacking_is_given_what_waits(world):
    async with world.manager(), world.proplet("p1", slots=4) as p1:
        await world.until(lambda page: page["total"] == 1, "/proplets")
        task = await world.launch(selector={"gpu": "yes"})
        await world.until(lambda shown: "lack" in shown.get("waiting", ""), f"/tasks/{task['id']}")
        await p1.register(slots=2, labels={"gpu": "yes"})
        assert (await p1.started()).id == task["id"]


async def test_who_comes_back_with_less_room_than_before_is_given_what_waits(world):
    async with world.manager():
        async with world.proplet("p1", slots=4) as p1:
            await world.until(lambda page: page["total"] == 1, "/proplets")
            await p1.say("alive", Alive(proplet_id="p1", instance=p1.instance, status="offline"))
            await world.until(lambda page: page["total"] == 0, "/proplets?status=active")
            task = await world.launch()
            await world.until(lambda shown: "waiting" in shown, f"/tasks/{task['id']}")
        async with world.proplet("p1", slots=2) as p1:
            assert (await p1.started()).id == task["id"]
