import asyncio
import time

import pytest

IMAGE = "registry/image:1"
NEVER = "0001-01-01T00:00:00Z"
MINUTE = {"name": "t", "image_url": IMAGE, "schedule": "* * * * *", "is_recurring": True}


async def shortly_before(world, *proplets, lead_s=0.5):
    """Set the manager's clock to ``lead_s`` before its next full minute, and return that."""
    due = next_minute(world)
    world.ahead_s += due - lead_s - now(world)
    for proplet in proplets:  # to the manager that much time has passed
        await proplet.alive()
    return due


def now(world):
    return time.time() + world.ahead_s


def shown_time(when):
    from manager.api.views import timestamp

    return timestamp(when)


def next_minute(world):
    return int(now(world) // 60 + 1) * 60


async def made(world, **fields):
    status, body = await world.call("POST", "/tasks", {**MINUTE, **fields})
    assert status == 201, body
    return f"/tasks/{body['id']}", body


async def test_a_recurring_task_runs_at_its_second_across_restarts(world):
    async with world.proplet_known("p1") as proplet:
        await shortly_before(world, lead_s=40)
        async with world.manager():
            path, _ = await made(world)
        for life in (1, 2, 3):
            due = await shortly_before(world, lead_s=1)
            async with world.manager():
                await proplet.register()
                start = await proplet.started()
                assert now(world) >= due
                _, shown = await world.call("GET", path)
                assert (shown["run"], shown["next_run"]) == (life, shown_time(due + 60))
                await proplet.acknowledged(await proplet.result(start, "1"))
        async with world.manager():
            _, attempts = await world.call("GET", f"{path}/attempts")
    assert [(each["run"], each["status"]) for each in attempts["attempts"]] == [(n, "completed") for n in (1, 2, 3)]


async def test_a_firing_happens_once_though_the_manager_stops_right_after_it(world):
    async with world.proplet_known("p1") as proplet:
        async with world.manager():
            await proplet.register()
            await shortly_before(world, proplet)
            path, _ = await made(world)
            start = await proplet.started()
        async with world.manager():
            await proplet.register()
            again = await proplet.started()
            assert (again.id, again.attempt) == (start.id, start.attempt), "the same attempt is offered again"
            await proplet.result(again, "1")
            shown = await world.until(lambda task: task["status"] == "completed", path)
            assert shown["run"] == 1


@pytest.mark.parametrize(("policy", "runs"), [("skip", 0), ("run_once", 1)])
async def test_runs_missed_while_the_manager_was_down_go_by_the_policy(world, policy, runs):
    async with world.manager():
        path, _ = await made(world, missed_run=policy)
    world.ahead_s = 600
    async with world.manager(), world.proplet("p1"):
        shown = await world.until(lambda task: task["next_run"] > shown_time(now(world)), path)
        assert shown["next_run"] == shown_time(next_minute(world))
        assert (shown["run"], shown["status"]) == ((1, "scheduled") if runs else (0, "pending"))


async def test_one_that_is_late_by_seconds_only_was_not_missed(world):
    await shortly_before(world, lead_s=20)
    async with world.manager():
        await made(world)
    world.ahead_s += 50
    async with world.manager(), world.proplet("p1") as proplet:
        assert (await proplet.started()).name == "t"


async def test_a_one_shot_runs_once_and_has_no_schedule_afterwards(world):
    async with world.manager(), world.proplet("p1") as proplet:
        due = await shortly_before(world, proplet)
        path, body = await made(world, is_recurring=False)
        assert body["next_run"] == shown_time(due)
        await proplet.result(await proplet.started(), "1")
        shown = await world.until(lambda task: task["status"] == "completed", path)
        assert shown["next_run"] == NEVER
        assert "schedule" not in shown
    async with world.manager(), world.proplet("p1") as proplet:
        await shortly_before(world, proplet)
        await made(world, name="other")
        assert (await proplet.started()).name == "other"
        _, shown = await world.call("GET", path)
        assert shown["run"] == 1


async def test_a_firing_is_left_out_while_the_last_run_is_still_active(world, capsys):
    async with world.manager(), world.proplet("p1") as proplet:
        due = await shortly_before(world, proplet)
        path, _ = await made(world, start=True)
        start = await proplet.started()
        await proplet.status(start, "accepted")
        shown = await world.until(lambda task: task["next_run"] == shown_time(due + 60), path)
        assert (shown["run"], shown["status"]) == (1, "running")
        assert proplet.starts.empty()
        await proplet.result(start, "1")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "[warning" in line and "this firing is left out" in line]


async def test_an_update_arms_it_again_and_clearing_disarms_it(world):
    async with world.manager(), world.proplet("p1") as proplet:
        await shortly_before(world, proplet, lead_s=2)
        path, _ = await made(world, start=True)
        start = await proplet.started()
        status, shown = await world.call("PUT", path, {"schedule": "30 2 * * *", "timezone": "Europe/Berlin"})
        assert (status, shown["schedule"], shown["is_recurring"]) == (200, "30 2 * * *", True)
        assert shown["next_run"][14:] == "30:00.000000Z"
        status, shown = await world.call("PUT", path, {"priority": 60})
        assert shown["schedule"] == "30 2 * * *", "what the body does not name stays"
        for wrong, names in (({"schedule": "61 * * * *"}, "minute '61'"), ({"timezone": "Mars/Base"}, "'Mars/Base'")):
            status, body = await world.call("PUT", path, wrong)
            assert (status, names in body["error"]) == (400, True), body
        _, same = await world.call("GET", path)
        assert same == shown
        status, shown = await world.call("PUT", path, {"schedule": ""})
        assert (status, shown["next_run"], "schedule" in shown) == (200, NEVER, False)
        assert "is_recurring" not in shown
        await proplet.result(start, "1")
        other, _ = await made(world, name="other")
        status, body = await world.call("POST", f"{other}/stop")
        assert (status, body["hint"]) == (409, f'PUT {other} with "schedule": "" ends its schedule')
        assert (await proplet.started()).name == "other", "its own minute has passed unused"


async def test_a_deleted_one_does_not_run(world):
    async with world.manager(), world.proplet("p1") as proplet:
        await shortly_before(world, proplet, lead_s=1)
        path, _ = await made(world)
        await made(world, name="other")
        async with world.session.delete(world.url + path) as response:
            assert response.status == 204
        assert (await proplet.started()).name == "other"
        assert proplet.starts.empty()


async def test_what_is_due_together_starts_by_priority_then_by_age(world):
    async with world.manager(), world.proplet("p1") as proplet:
        await shortly_before(world, proplet, lead_s=2)
        for name, priority in (("old", 50), ("young", 50), ("urgent", 90)):
            await made(world, name=name, priority=priority)
        names = []
        for _ in range(3):
            start = await proplet.started()
            names.append(start.name)
            await proplet.result(start, "1")
    assert names == ["urgent", "old", "young"]


async def test_a_start_that_is_impossible_is_told_and_tried_again_next_time(world):
    async with world.manager():
        due = await shortly_before(world)
        path, _ = await made(world, image_url="")
        shown = await world.until(lambda task: task["status"] == "failed", path)
    assert (shown["code"], shown["run"], shown["next_run"]) == ("no_binary", 0, shown_time(due + 60))


async def test_a_database_that_is_away_delays_a_firing_and_loses_none(world, capsys):
    async with world.manager():
        await shortly_before(world, lead_s=40)
        await made(world)
    async with world.manager() as manager, world.proplet("p1") as proplet:
        with world.broken("tasks", "spec_text"):
            await shortly_before(world, proplet, lead_s=0.1)
            manager.scheduler._set_timer()  # which looks at the clock again after a minute at most
            said = ""
            async with asyncio.timeout(10):
                while "a schedule waits for the database" not in said:
                    said += capsys.readouterr().out
                    await asyncio.sleep(0.01)
            assert proplet.starts.empty()
        assert (await proplet.started()).name == "t"


@pytest.mark.parametrize(
    ("fields", "code", "names"),
    [
        ({"schedule": "* * * *"}, "invalid_schedule", "field schedule: '* * * *' has 4 fields"),
        ({"schedule": "0 0 30 2 *"}, "invalid_schedule", "never fires"),
        ({"timezone": "Nowhere"}, "invalid_timezone", "field timezone: 'Nowhere'"),
        ({"timezone": "", "schedule": "", "is_recurring": False}, "invalid_timezone", "field timezone: ''"),
    ],
)
async def test_a_wrong_schedule_is_a_400_and_leaves_nothing(world, fields, code, names):
    async with world.manager():
        status, body = await world.call("POST", "/tasks", {**MINUTE, **fields})
        assert (status, body["code"], names in body["error"]) == (400, code, True), body
        _, page = await world.call("GET", "/tasks")
        assert page["total"] == 0


async def test_a_change_of_something_else_leaves_out_no_run_that_is_due(world):
    async with world.manager():
        path, task = await made(world)
        world.ahead_s += 62  # nobody has looked yet
        await world.call("PUT", path, {"priority": 60, "schedule": MINUTE["schedule"]})
        _, changed = await world.call("GET", path)
        assert changed["next_run"] == task["next_run"]
        _, changed = await world.call("PUT", path, {"timezone": "Asia/Kolkata"})
        assert changed["next_run"] > task["next_run"]
