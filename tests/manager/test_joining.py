"""A task is added to a job or a workflow that there is already; what nobody could wait for is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from contextlib import closing

import pytest

from tests.manager.test_groups import IMAGE, by_name, doing, has_ended, made, statuses, task


async def joined(world, group, name, **fields):
    kind = "job" if "job_id" in group else "workflow"
    body = task(name, **{f"{kind}_id": group[f"{kind}_id"]}, **fields)
    status, shown = await world.call("POST", "/tasks", body)
    assert status == 201, shown
    return shown


async def test_one_that_has_not_begun_takes_it_and_it_is_durable_when_that_is_answered(world):
    async with world.manager():
        whole = await made(world, "workflow", [task("a")])
        named = await joined(world, whole, "b", depends_on=["a"])
        by_id = await joined(world, whole, "c", depends_on=[named["id"].upper(), "a"])
        with closing(sqlite3.connect(world.folder / "manager.db")) as database:
            rows = database.execute("SELECT name, group_id FROM tasks ORDER BY position").fetchall()
        assert rows == [(name, whole["workflow_id"]) for name in "abc"]
    first = whole["tasks"][0]["id"]
    assert (named["status"], named["depends_on"], by_id["depends_on"]) == ("pending", [first], [named["id"], first])
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet) as names:
        status, _ = await world.call("POST", f"/workflows/{whole['workflow_id']}/start")
        assert status == 200
        ended = await has_ended(world, "workflow", whole)
    assert names == [shown["name"] for shown in ended["tasks"]] == ["a", "b", "c"]


async def test_one_that_runs_takes_what_waits_and_what_is_due_at_once(world):
    async with world.manager(), world.proplet("p1", slots=4) as proplet:
        whole = await made(world, "workflow", [task("a"), task("long")], start=True)
        starts = {start.name: start for start in [await proplet.started(), await proplet.started()]}
        waiting = await joined(world, whole, "waits", depends_on=["a"])
        assert waiting["status"] == "pending"
        await joined(world, whole, "free")
        assert (await proplet.started()).name == "free"
        await proplet.result(starts["a"], 1)
        late = await proplet.started()
        assert (late.name, list(late.parents.values())) == ("waits", [1])
        due = await joined(world, whole, "due", depends_on=["a"])
        assert due["status"] in {"scheduled", "running"}
        assert (await proplet.started()).name == "due"


async def test_one_that_was_added_runs_on_after_a_restart_as_the_others_do(world):
    async with world.proplet_known("p1") as proplet:
        async with world.manager():
            await proplet.register()
            whole = await made(world, "workflow", [task("a")], start=True)
            start = await proplet.started()
            await proplet.status(start, "accepted")
            await joined(world, whole, "b", depends_on=["a"])
        said = await proplet.result(start, "1")
        async with world.manager(), doing(proplet):
            await proplet.register()
            await proplet.acknowledged(said)
            ended = await has_ended(world, "workflow", whole)
    assert statuses(ended) == {"a": "completed", "b": "completed"}


async def test_what_could_never_run_is_refused_and_a_handler_of_what_has_failed_is_due(world):
    async with world.manager(), world.proplet("p1", slots=2) as proplet:
        whole = await made(world, "workflow", [task("a"), task("long")], start=True)
        starts = {start.name: start for start in [await proplet.started(), await proplet.started()]}
        await proplet.result(starts["a"], None, error="boom", code="guest_failed")
        await world.until(lambda shown: statuses(shown)["a"] == "failed", f"/workflows/{whole['workflow_id']}")
        body = task("after", workflow_id=whole["workflow_id"], depends_on=["a"])
        status, said = await world.call("POST", "/tasks", body)
        assert (status, said["code"]) == (409, "never_runs")
        assert "it depends on a, which failed" in said["error"]
        await joined(world, whole, "handler", depends_on=["a"], run_if="failure")
        start = await proplet.started()
        assert start.name == "handler"
        for each in (start, starts["long"]):
            await proplet.result(each, None)
        ended = await has_ended(world, "workflow", whole)
        assert (ended["status"], list(by_name(ended))) == ("completed", ["a", "long", "handler"])
        status, said = await world.call("POST", "/tasks", task("late", workflow_id=whole["workflow_id"]))
        assert (status, said["code"]) == (409, "group_ended")


async def test_one_that_is_being_stopped_takes_none(world):
    async with world.manager(), world.proplet("p1") as proplet:
        whole = await made(world, "workflow", [task("a")], start=True)
        await proplet.status(await proplet.started(), "accepted")
        await world.until(lambda shown: statuses(shown)["a"] == "running", f"/workflows/{whole['workflow_id']}")
        assert (await world.call("POST", f"/workflows/{whole['workflow_id']}/stop"))[0] == 200
        status, said = await world.call("POST", "/tasks", task("late", workflow_id=whole["workflow_id"]))
        assert (status, said["code"]) == (409, "group_ended")
        await proplet.stopped()


async def test_in_a_sequential_job_it_is_the_last_in_turn(world):
    async with world.manager(), world.proplet("p1", slots=3) as proplet:
        whole = await made(world, "job", [task("a"), task("b")], execution_mode="sequential", start=True)
        first = await proplet.started()
        await joined(world, whole, "c")
        names = [first.name]
        await proplet.result(first, None)
        for _ in range(2):
            start = await proplet.started()
            names.append(start.name)
            await proplet.result(start, None)
        assert (await has_ended(world, "job", whole))["status"] == "completed"
    assert names == ["a", "b", "c"]


async def test_the_same_request_under_one_key_adds_one(world):
    async with world.manager():
        whole = await made(world, "job", [task("a")])
        body = task("b", job_id=whole["job_id"], depends_on=["a"])
        answers = [await world.call("POST", "/tasks", body, **{"Idempotency-Key": "k"}) for _ in range(2)]
        assert [status for status, _ in answers] == [201, 200]
        assert answers[0][1]["id"] == answers[1][1]["id"]
        _, shown = await world.call("GET", f"/jobs/{whole['job_id']}")
        assert list(statuses(shown)) == ["a", "b"]


@pytest.mark.parametrize("kind", ["job", "workflow"])
async def test_the_first_task_that_names_a_group_makes_it_and_the_others_join(world, kind):
    """The existing API has no groups but the tasks that name one."""
    name = str(uuid.uuid4())
    async with world.manager():
        bodies = [task(each, **{f"{kind}_id": name.upper()}) for each in "abc"]
        answers = await asyncio.gather(*(world.call("POST", "/tasks", body) for body in bodies))
        assert [status for status, _ in answers] == [201, 201, 201]
        child = await joined(world, {f"{kind}_id": name}, "d", depends_on=[answers[0][1]["id"]])
    async with world.manager(), world.proplet("p1", slots=4) as proplet, doing(proplet) as names:
        status, _ = await world.call("POST", f"/{kind}s/{name}/start")
        assert status == 200
        ended = await has_ended(world, kind, {f"{kind}_id": name})
        assert (ended["status"], sorted(names)) == ("completed", ["a", "b", "c", "d"])
        assert child["id"] in {each["id"] for each in ended["tasks"]}
        _, page = await world.call("GET", f"/{kind}s")
        assert page["total"] == 1


async def test_what_makes_no_sense_is_refused_and_leaves_nothing(world):
    async with world.manager():
        job = await made(world, "job", [task("a"), task("serve", daemon=True)])
        turns = await made(world, "job", [task("a"), task("serve", latent=True)], execution_mode="sequential")
        other = (await made(world, "workflow", [task("far")]))["tasks"][0]["id"]
        for fields, expected, names in (
            ({"depends_on": ["a"]}, 400, "field depends_on: it needs"),
            ({"job_id": job["job_id"], "workflow_id": "w"}, 400, "job_id and workflow_id"),
            ({"job_id": job["job_id"], "depends_on": ["z"]}, 400, "there is no task 'z'"),
            ({"job_id": job["job_id"], "depends_on": [other]}, 400, f"there is no task '{other}'"),
            ({"job_id": job["job_id"], "depends_on": ["serve"]}, 400, "field daemon: it would run until it is stopped"),
            ({"job_id": turns["job_id"]}, 400, "field latent: it would run until it is stopped, and 'b' waits"),
            ({"job_id": job["job_id"], "run_if": "failure"}, 400, "field run_if"),
            ({"job_id": job["job_id"], "start": True}, 400, "field start"),
            ({"job_id": job["job_id"], "schedule": "* * * * *"}, 400, "field schedule"),
            ({"workflow_id": job["job_id"]}, 404, "there is no workflow"),
            ({"job_id": "nightly", "depends_on": ["a"]}, 400, "there is no task 'a'"),
            ({"job_id": "../nightly"}, 400, "field job_id: '../nightly' is not an id"),
        ):
            status, said = await world.call("POST", "/tasks", task("b", **fields))
            assert (status, names in said["error"]) == (expected, True), (fields, said)
        _, page = await world.call("GET", "/tasks")
        assert page["total"] == 5


async def test_a_task_that_others_wait_for_cannot_be_made_endless(world):
    async with world.manager():
        whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])])
        ids = {shown["name"]: shown["id"] for shown in whole["tasks"]}
        for field in ("daemon", "latent"):
            status, said = await world.call("PUT", f"/tasks/{ids['a']}", {field: True})
            assert (status, f"field {field}: it would run" in said["error"]) == (400, True), said
        status, said = await world.call("PUT", f"/tasks/{ids['a']}", {"run_if": "failure"})
        assert (status, "field run_if" in said["error"]) == (400, True)
        status, shown = await world.call("PUT", f"/tasks/{ids['b']}", {"daemon": True})
        assert (status, shown["daemon"]) == (200, True)


async def test_a_run_if_that_is_changed_while_it_waits_counts(world):
    async with world.manager(), world.proplet("p1") as proplet:
        whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])], start=True)
        start = await proplet.started()
        status, _ = await world.call("PUT", f"/tasks/{whole['tasks'][1]['id']}", {"run_if": "failure"})
        assert status == 200
        await proplet.result(start, None)
        assert statuses(await has_ended(world, "workflow", whole)) == {"a": "completed", "b": "skipped"}


async def test_a_uuid_means_the_same_however_it_is_spelt(world):
    given = str(uuid.uuid4())
    async with world.manager():
        whole = await made(world, "job", [task("a", job_id=given.upper())])
        assert whole["job_id"] == given
        spelt = given.replace("-", "").upper()
        assert (await world.call("GET", f"/jobs/{spelt}"))[1]["job_id"] == given
        assert (await world.call("GET", f"/tasks/{whole['tasks'][0]['id'].upper()}"))[0] == 200
        assert (await world.call("GET", f"/tasks?job_id={spelt}"))[1]["total"] == 1
        status, said = await world.call("POST", "/jobs", {"tasks": [task("a", job_id=given)]})
        assert (status, said["code"]) == (409, "group_exists")
        assert (await world.call("POST", "/tasks", task("b", job_id=spelt)))[0] == 201


@pytest.mark.parametrize("wrong", ["a/b", "..", "a b", "-x", "ä", "a" * 129, "a?b", "a.b"])
async def test_an_id_that_no_path_could_name_is_refused(world, wrong):
    async with world.manager():
        status, said = await world.call("POST", "/workflows", {"tasks": [task("a", workflow_id=wrong)]})
        assert (status, "workflow_id" in said["error"]) == (400, True)
        assert (await world.call("GET", "/workflows"))[1]["total"] == 0


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"is_recurring": True}, "field is_recurring: it needs a schedule"),
        ({"metadata": {str(n): n for n in range(257)}}, "field metadata: 257 keys"),
        ({"image_url": "add:latest"}, "field image_url: invalid image reference 'add:latest': it names no registry"),
        ({"image_url": "https://r.example/a"}, "an image reference has no scheme"),
    ],
)
async def test_what_could_only_fail_later_is_refused_when_it_is_said(world, fields, names):
    body = {"name": "t", "image_url": IMAGE}
    async with world.manager():
        _, known = await world.call("POST", "/tasks", body)
        for method, path, sent in (
            ("POST", "/tasks", {**body, **fields}),
            ("POST", "/jobs", {"tasks": [{**body, **fields}]}),
            ("PUT", f"/tasks/{known['id']}", fields),
        ):
            status, said = await world.call(method, path, sent)
            assert (status, names in said["error"]) == (400, True), said
        assert (await world.call("GET", "/tasks"))[1]["total"] == 1
