from swashplate.bus import MemoryBus
from swashplate.messages import PropletCreate
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
