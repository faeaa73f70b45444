"""What is measured: kept per proplet and per task, the newest over the oldest, also when the manager is restarted."""

import json
import sqlite3
from contextlib import closing

import pytest

from manager.fleet import histories
from manager.state import sample_store, tables
from manager.state.sample_store import proplet_subject, task_subject
from swashplate.database import Database, sqlite_url
from swashplate.messages import PropletMetrics, TaskMetrics

AT = "2026-01-02T03:04:05.123456789Z"


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(histories, "WRITE_EVERY_S", 0.01)


async def measured(proplet, percent, proplet_id=None):
    said = PropletMetrics(proplet_id=proplet_id or proplet.id, timestamp=AT, cpu_metrics={"percent": percent})
    await proplet.say("metrics", said)


async def measured_task(proplet, start, number):
    said = TaskMetrics(
        task_id=start.id,
        attempt=start.attempt,
        proplet_id=proplet.id,
        timestamp=AT,
        metrics={"n": number},
        aggregated={"sample_count": number},
    )
    await proplet.say("task_metrics", said)


def kept(world, subject):
    """How many samples the database has."""
    with closing(sqlite3.connect(world.folder / "manager.db")) as database:
        return database.execute("SELECT count(*) FROM samples WHERE subject = ?", [subject]).fetchone()[0]


def numbers(page):
    return [each["metrics"]["n"] for each in page["metrics"]]


async def test_the_samples_of_a_proplet_are_kept_as_it_told_them(world):
    async with world.manager(), world.proplet("p1") as p1:
        await measured(p1, 1.5)
        page = await world.until(lambda page: page["total"] == 1, "/proplets/p1/metrics")
        assert page == {
            "offset": 0,
            "limit": 100,
            "total": 1,
            "metrics": [
                {
                    "proplet_id": "p1",
                    "namespace": "default",
                    "timestamp": AT,
                    "cpu_metrics": {"percent": 1.5},
                    "memory_metrics": {},
                }
            ],
        }


async def test_samples_of_a_task_that_was_deleted_meanwhile_are_not_kept(world, monkeypatch):
    monkeypatch.setattr(histories, "WRITE_EVERY_S", 3600)
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        await measured_task(p1, start, 1)
        path = f"/tasks/{task['id']}"
        await world.until(lambda page: page["total"] == 1, f"{path}/metrics")
        await p1.result(start, "1")
        await world.ended(task["id"])
        assert (await world.call("DELETE", path))[0] == 204
    # What is left was written when the manager ended.
    async with Database(sqlite_url(world.folder / "manager.db"), tables.SCHEMA) as database:
        assert await database.run(lambda db: db.execute(tables.samples.select()).all()) == []


async def test_a_hundred_samples_are_kept_newest_first_over_a_restart(world):
    async with world.proplet_known("p1") as p1:
        async with world.manager():
            await p1.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            for number in range(130):
                await measured(p1, number)
            await world.until(lambda page: page["metrics"][:1] and newest(page) == 129, "/proplets/p1/metrics")
        async with world.manager():
            page = (await world.call("GET", "/proplets/p1/metrics"))[1]
            assert [each["cpu_metrics"]["percent"] for each in page["metrics"]] == list(range(129, 29, -1))
            await measured(p1, 130)
            page = await world.until(lambda page: newest(page) == 130, "/proplets/p1/metrics?limit=2")
            assert (page["total"], len(page["metrics"])) == (100, 2)
    async with Database(sqlite_url(world.folder / "manager.db"), tables.SCHEMA) as database:
        rows = await database.run(lambda db: sample_store.newest(db, sample_store.proplet_subject("p1"), 1000))
    assert len(rows) == 100
    assert json.loads(rows[0])["cpu_metrics"] == {"percent": 130}


def newest(page):
    return page["metrics"][0]["cpu_metrics"]["percent"]


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({"monitoring_profile": {"history_size": 2}}, 2),
        ({"monitoring_profile": {"retain_history": False}}, 1),
        ({"monitoring_profile": {"enabled": False}}, 0),
        ({"monitoring_profile": {"history_size": 0}}, 0),
        ({}, 5),
    ],
)
async def test_a_task_keeps_as_many_samples_as_its_profile_says(world, spec, kept):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(**spec)
        start = await p1.started()
        for number in range(5):
            await measured_task(p1, start, number)
        await p1.acknowledged(await p1.result(start, "done"))
        await world.ended(task["id"])
        page = await world.until(lambda page: page["total"] == kept, f"/tasks/{task['id']}/metrics")
        assert numbers(page) == [4, 3, 2, 1, 0][:kept]


async def test_a_daemon_keeps_more_and_its_samples_go_with_it(world):
    async with world.manager(), world.proplet("p1") as p1:
        task = await world.launch(daemon=True)
        start = await p1.started()
        for number in range(120):
            await measured_task(p1, start, number)
        await world.until(lambda page: page["total"] == 120, f"/tasks/{task['id']}/metrics")
        await world.call("POST", f"/tasks/{task['id']}/stop")
        await world.ended(task["id"])
        assert (await world.call("GET", f"/tasks/{task['id']}/metrics"))[1]["total"] == 120
        assert (await world.call("DELETE", f"/tasks/{task['id']}"))[0] == 204
        assert (await world.call("GET", f"/tasks/{task['id']}/metrics"))[0] == 404
        assert kept(world, task_subject(task["id"])) == 0


async def test_only_the_proplet_that_has_a_task_says_anything_of_it_and_only_a_proplet_of_itself(world):
    async with world.manager(), world.proplet("p1") as p1, world.proplet("p2") as p2:
        task = await world.launch(proplet_id="p1")
        start = await p1.started()
        await measured_task(p2, start, 666)
        await measured(p2, 666, proplet_id="p1")
        await measured_task(p1, start, 1)
        await measured(p1, 1)
        page = await world.until(lambda page: page["total"], f"/tasks/{task['id']}/metrics")
        assert numbers(page) == [1]
        page = await world.until(lambda page: page["total"], "/proplets/p1/metrics")
        assert (page["total"], newest(page)) == (1, 1)


async def test_of_what_is_not_known_there_are_no_samples(world):
    async with world.manager(), world.proplet("p1") as p1:
        await p1.bus.publish(
            "m/d/c/c/control/proplet/ghost/metrics", PropletMetrics(proplet_id="ghost", timestamp=AT).encode()
        )
        await p1.say("metrics", PropletMetrics(proplet_id="p1", timestamp=AT, cpu_metrics={"x": "x" * 20_000}))
        await measured(p1, 1)
        await world.until(lambda page: page["total"] == 1, "/proplets/p1/metrics")
        for path, code in (("/proplets/ghost/metrics", "proplet_not_found"), ("/tasks/x/metrics", "task_not_found")):
            status, said = await world.call("GET", path)
            assert (status, said["code"]) == (404, code)


async def test_a_deleted_proplet_takes_its_samples_along(world):
    async with world.manager(), world.proplet("p1") as p1:
        await measured(p1, 1)
        await world.until(lambda page: page["total"] == 1, "/proplets/p1/metrics")
        await world.call("POST", "/proplets/p1/cordon")
        assert (await world.call("DELETE", "/proplets/p1"))[0] == 204
        assert (await world.call("GET", "/proplets/p1/metrics"))[0] == 404
        assert kept(world, proplet_subject("p1")) == 0


async def test_samples_wait_for_a_database_that_cannot_write(world):
    async with world.manager(), world.proplet("p1") as p1:
        with world.broken("samples", "sample"):
            await measured(p1, 1)
            await p1.acknowledged(await p1.status(await _any_start(world, p1), "accepted"))
        assert (await world.until(lambda page: page["total"] == 1, "/proplets/p1/metrics"))["total"] == 1


async def _any_start(world, proplet):
    await world.launch(proplet_id=proplet.id)
    return await proplet.started()


async def test_prometheus_sees_what_the_manager_does(world):
    async with world.manager(), world.proplet("p1", slots=3) as p1, world.proplet("p2") as p2:
        p2.bus.drop()
        await world.until(lambda shown: not shown["alive"], "/proplets/p2")
        await p1.result(await _any_start(world, p1), 1)
        latent = await world.launch(latent=True, proplet_id="p1", concurrency=1)
        await p1.deployed()
        for _ in range(2):
            await world.call("POST", f"/tasks/{latent['id']}/invoke", {"async": True})
        await p1.acknowledged(await p1.invoke_result(await p1.invoked(), "ok"))
        await world.launch(selector={"gpu": "true"})
        await world.until(lambda shown: "waiting" in shown, await _newest(world))
        found = await scraped(world)
        assert found['manager_tasks{state="running"}'] == 1
        assert found['manager_tasks{state="scheduled"}'] == 1
        assert found['manager_attempts{state="ready"}'] == 1
        assert found["manager_queue_length"] == 1
        assert found['manager_proplets{state="alive"}'] == 1
        assert found['manager_proplets{state="offline"}'] == 1
        assert found['manager_attempts_ended_total{outcome="completed"}'] == 1
        assert found['manager_invocations{state="running"}'] == 1
        assert found['manager_invocations_ended_total{outcome="completed"}'] == 1
        assert found['manager_api_request_count{method="POST /tasks"}'] == 3
        assert found['manager_api_request_latency_microseconds_count{method="POST /tasks"}'] == 3
        assert found['manager_api_request_latency_microseconds_sum{method="POST /tasks"}'] > 0


async def _newest(world):
    _, page = await world.call("GET", "/tasks?limit=1")
    return f"/tasks/{page['tasks'][0]['id']}"


async def scraped(world):
    async with world.session.get(f"{world.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}
