"""Jobs and workflows as Propeller's clients know them. What ours does otherwise is said where it is asked."""

from __future__ import annotations

import re
import uuid

import pytest

from tests.manager.conftest import World
from tests.peers.test_manager_contract import ALWAYS, NEW, PROPLET, TIME, UNKNOWN, Row, check, check_all, holds, manager

JOB = {
    "job_id": str,
    "name": "j",
    "state": int,
    "start_time": TIME,
    "finish_time": TIME,
    "created_at": TIME,
    "tasks": list,
}
DONE = {"start": "started", "stop": "stopped"}
TWO = [{**NEW, "name": "a"}, {**NEW, "name": "b"}]


async def made(world: World, what: str, **fields) -> dict:
    status, shown = await world.call("POST", f"/{what}", {"name": "j", "tasks": TWO, **fields})
    assert status == 201, shown
    return shown


ROWS = [
    Row(
        "a workflow",
        "POST",
        "/workflows",
        201,
        {"tasks": TWO},
        {"workflow_id": str, "tasks": list},
    ),
    Row("a workflow without tasks", "POST", "/workflows", 400, {"tasks": []}, {"error": re.compile(".*tasks.*")}),
    Row(
        "a job",
        "POST",
        "/jobs",
        201,
        {"name": "j", "tasks": TWO, "execution_mode": "parallel"},
        {"job_id": str, "tasks": list},
        headers={"Location": "/jobs/[0-9a-f-]{36}"},
    ),
    Row(
        "a job's mode is checked",
        "POST",
        "/jobs",
        400,
        {"name": "j", "tasks": TWO, "execution_mode": "magic"},
        {"error": re.compile(".*execution_mode.*")},
        differs="when it is started",
    ),
    Row(
        "a cycle",
        "POST",
        "/workflows",
        400,
        {"tasks": [{**NEW, "name": "a", "depends_on": ["b"]}, {**NEW, "name": "b", "depends_on": ["a"]}]},
        {"error": str},
        differs="500",
    ),
    Row(
        "a parent that is not there",
        "POST",
        "/workflows",
        400,
        {"tasks": [{**NEW, "depends_on": [UNKNOWN]}]},
        {"error": re.compile(f".*{UNKNOWN}.*")},
        differs="500",
    ),
    Row("no job", "GET", f"/jobs/{UNKNOWN}", 404, shows={"error": str}, differs="201 and an empty list"),
    Row("no job to start", "POST", f"/jobs/{UNKNOWN}/start", 404, shows={"error": str}),
    Row("no job to stop", "POST", f"/jobs/{UNKNOWN}/stop", 404, shows={"error": str}),
    Row("jobs of a wrong status", "GET", "/jobs?status=tired", 400, shows={"error": re.compile(".*status.*")}),
]


async def test_what_needs_nothing(tmp_path):
    async with manager(tmp_path) as (world, _):
        await check_all(world, ROWS, {})


async def test_jobs_are_listed_newest_first(tmp_path):
    async with manager(tmp_path) as (world, _):
        first, second = await made(world, "jobs"), await made(world, "jobs")
        _, page = await world.call("GET", "/jobs")
        holds(page, {"offset": 0, "limit": 100, "total": 2}, "page")
        assert [job["job_id"] for job in page["jobs"]] == [second["job_id"], first["job_id"]]
        holds(page["jobs"][0], {**JOB, "state": 0}, "job")
        assert (await world.call("GET", "/jobs?status=pending"))[1]["total"] == 2
        assert (await world.call("GET", "/jobs?status=running"))[1]["total"] == 0


async def test_a_job_is_shown(tmp_path):
    """The existing manager answers 201, which its own client takes for a failure."""
    async with manager(tmp_path) as (world, _):
        job = await made(world, "jobs")
        status, shown = await world.call("GET", f"/jobs/{job['job_id']}")
    assert status == 200
    holds(shown, {"job_id": job["job_id"]}, "job")
    for task in shown["tasks"]:
        holds(task, {**ALWAYS, "job_id": job["job_id"], "state": 0}, "task")


@pytest.mark.parametrize("what", ["job", "workflow"])
async def test_one_is_started_and_stopped(tmp_path, what):
    """Workflows are started with their tasks there, and have no routes to start and stop them."""
    async with manager(tmp_path) as (world, _), world.proplet(PROPLET) as proplet:
        whole = await made(world, f"{what}s")
        path, named = f"/{what}s/{whole[f'{what}_id']}", {f"{what}_id": whole[f"{what}_id"]}
        for word in ("start", "stop"):
            row = Row(word, "POST", f"{path}/{word}", 200, shows={"message": f"{what} {DONE[word]}", **named})
            await check(world, row, row.path, None)
            if word == "start":
                await proplet.started()


async def test_ids_of_tasks_may_be_brought_along(tmp_path):
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    tasks = [{**NEW, "id": one, "name": "a"}, {**NEW, "id": two, "name": "b", "depends_on": [one]}]
    async with manager(tmp_path) as (world, _):
        _, whole = await world.call("POST", "/workflows", {"tasks": tasks})
        _, task = await world.call("GET", f"/tasks/{two}")
    assert [each["id"] for each in whole["tasks"]] == [one, two]
    holds(task, {"depends_on": [one], "workflow_id": whole["workflow_id"]}, "task")


async def test_a_task_of_a_job_is_listed_by_it(tmp_path):
    async with manager(tmp_path) as (world, _):
        job, workflow = await made(world, "jobs"), await made(world, "workflows")
        for query, total in (
            (f"job_id={job['job_id']}", 2),
            (f"workflow_id={workflow['workflow_id']}", 2),
            (f"job_id={job['job_id']}&workflow_id={workflow['workflow_id']}", 0),
        ):
            assert (await world.call("GET", f"/tasks?{query}"))[1]["total"] == total
