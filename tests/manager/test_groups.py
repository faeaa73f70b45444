import asyncio
import uuid
from contextlib import asynccontextmanager

import pytest

from manager.api.groups import WorkflowPage
from manager.plans.parents import MOST_IN_START

IMAGE = "registry/image:1"


def task(name, **fields):
    return {"name": name, "image_url": IMAGE, **fields}


def by_name(whole):
    return {shown["name"]: shown for shown in whole["tasks"]}


def statuses(whole):
    return {shown["name"]: shown["status"] for shown in whole["tasks"]}


async def made(world, kind, tasks, **fields):
    status, body = await world.call("POST", f"/{kind}s", {"name": "n", "tasks": tasks, **fields})
    assert status == 201, body
    return body


async def has_ended(world, kind, whole):
    path = f"/{kind}s/{whole[f'{kind}_id']}"
    status, body = await world.call("GET", f"{path}?wait=10")
    assert status == 200
    assert body["status"] in {"completed", "failed"}, body
    return body


@asynccontextmanager
async def doing(proplet, **outcomes):
    """The proplet completes whatever it is given, except where an outcome is named; yields the names in their order."""
    names = []

    async def work():
        while True:
            start = await proplet.starts.get()
            names.append(start.name)
            await proplet.status(start, "accepted")
            await proplet.result(
                start, outcomes.get(start.name, {}).pop("results", start.name), **outcomes.get(start.name, {})
            )

    working = asyncio.create_task(work())
    try:
        yield names
    finally:
        working.cancel()


FAILS = {"results": None, "error": "boom", "code": "guest_failed"}
FIVE = [
    task("fetch"),
    task("train", depends_on=["fetch"]),
    task("publish", depends_on=["train"]),
    task("announce", depends_on=["publish"]),
    task("repair", depends_on=["train"], run_if="failure"),
]


async def test_a_workflow_of_five_with_a_failing_branch_ends_as_declared(world):
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet, train=dict(FAILS)) as names:
        whole = await made(world, "workflow", FIVE, start=True)
        assert whole["status"] == "running"
        ended = await has_ended(world, "workflow", whole)
    assert statuses(ended) == {
        "fetch": "completed",
        "train": "failed",
        "publish": "skipped",
        "announce": "skipped",
        "repair": "completed",
    }
    assert ended["status"] == "completed", "its failure was dealt with"
    assert names == ["fetch", "train", "repair"]
    assert by_name(ended)["announce"]["error"] == "it depends on publish, which was skipped"
    assert by_name(ended)["announce"]["code"] == "skipped"


async def test_children_start_after_a_manager_that_was_killed_between(world):
    """The parent's end and the children's starts are one change: there is nothing between them to be killed in."""
    async with world.proplet_known("p1") as proplet:
        async with world.manager():
            await proplet.register()
            whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])], start=True)
            first = await proplet.started()
            await proplet.status(first, "accepted")
        said = await proplet.result(first, "1")  # nobody hears it; it is kept by the broker for the next life
        async with world.manager():
            await proplet.register()
            await proplet.acknowledged(said)
            second = await proplet.started()
            assert (second.name, second.parents) == ("b", {first.id: "1"})
        async with world.manager():
            await proplet.register()
            again = await proplet.started()
            assert (again.id, again.attempt) == (second.id, second.attempt)
            await proplet.result(again, "2")
            ended = await has_ended(world, "workflow", whole)
    assert statuses(ended) == {"a": "completed", "b": "completed"}
    assert ended["status"] == "completed"


@pytest.mark.parametrize("kept", ["end", "end and start"])
async def test_a_recovered_workflow_goes_on_from_what_is_durable(world, kept):
    async with world.proplet_known("p1") as proplet:
        async with world.manager() as manager:
            await proplet.register()
            whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])], start=True)
            start = await proplet.started()
            if kept == "end":  # as if a version that wrote the two apart had been killed between them
                manager.attempts.consequences.clear()
            await proplet.acknowledged(await proplet.result(start, "1"))
        while not proplet.starts.empty():
            proplet.starts.get_nowait()
        async with world.manager():
            await proplet.register()
            start = await proplet.started()
            assert start.name == "b"
            await proplet.result(start, "2")
            assert (await has_ended(world, "workflow", whole))["status"] == "completed"


async def test_the_results_of_completed_parents_are_handed_to_the_start(world):
    async with world.manager(), world.proplet("p1") as proplet:
        tasks = [task("a"), task("bad"), task("both", depends_on=["a", "bad"], run_if="failure")]
        whole = await made(world, "workflow", tasks, start=True)
        ids = {shown["name"]: shown["id"] for shown in whole["tasks"]}
        await proplet.result(await proplet.started(), {"from": "a"})
        await proplet.result(await proplet.started(), "half of it", error="boom", code="guest_failed")
        last = await proplet.started()
        assert (last.parents, last.parents_digest) == ({ids["a"]: {"from": "a"}}, None)
        await proplet.result(last, None)
        await has_ended(world, "workflow", whole)


async def test_large_results_of_parents_are_a_blob_until_the_workflow_has_ended(world):
    large = "x" * MOST_IN_START
    async with world.manager(), world.proplet("p1") as proplet:
        whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])], start=True)
        first = await proplet.started()
        await proplet.result(first, large)
        start = await proplet.started()
        assert start.parents == {}
        async with world.session.get(f"{world.url}/blobs/{start.parents_digest}") as response:
            content = await response.read()
            assert response.status == 200
        assert len(content) == start.parents_size
        assert await response.json(content_type=None) == {first.id: large}
        await proplet.result(start, None)
        await has_ended(world, "workflow", whole)
        async with asyncio.timeout(5):
            while (await world.session.get(f"{world.url}/blobs/{start.parents_digest}")).status != 404:
                await asyncio.sleep(0.01)


async def test_large_results_that_a_task_may_be_fetching_outlive_a_restart(world):
    async with world.proplet_known("p1") as proplet:
        async with world.manager():
            await proplet.register()
            await world.until(lambda shown: shown["alive"], "/proplets/p1")
            whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])], start=True)
            await proplet.result(await proplet.started(), "x" * MOST_IN_START)
            start = await proplet.started()
            await proplet.acknowledged(await proplet.status(start, "accepted"))
        async with world.manager():
            async with world.session.get(f"{world.url}/blobs/{start.parents_digest}") as response:
                assert response.status == 200
            await proplet.result(start, None)
            await has_ended(world, "workflow", whole)


async def test_a_sequential_job_runs_one_after_another_and_skips_the_rest_after_a_failure(world):
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet, b=dict(FAILS)) as names:
        tasks = [task(name) for name in "abcd"]
        whole = await made(world, "job", tasks, execution_mode="sequential", start=True)
        assert statuses(whole) == {"a": "scheduled", "b": "pending", "c": "pending", "d": "pending"}
        ended = await has_ended(world, "job", whole)
    assert names == ["a", "b"]
    assert statuses(ended) == {"a": "completed", "b": "failed", "c": "skipped", "d": "skipped"}
    assert ended["status"] == "failed"
    assert by_name(ended)["d"]["error"] == "the job ended with b, which failed"


async def test_a_sequential_job_starts_the_next_only_when_one_has_ended(world):
    async with world.manager(), world.proplet("p1") as proplet:
        whole = await made(world, "job", [task("a"), task("b")], execution_mode="sequential", start=True)
        first = await proplet.started()
        await proplet.acknowledged(await proplet.status(first, "accepted"))
        assert proplet.starts.empty()
        await proplet.result(first, None)
        second = await proplet.started()
        assert (first.name, second.name) == ("a", "b")
        await proplet.result(second, None)
        assert (await has_ended(world, "job", whole))["status"] == "completed"


async def test_the_first_failure_of_a_parallel_job_stops_what_runs(world):
    async with world.manager(), world.proplet("p1") as first, world.proplet("p2") as second:
        whole = await made(world, "job", [task("a", proplet_id="p1"), task("b", proplet_id="p2")], start=True)
        running = await second.started()
        await second.acknowledged(await second.status(running, "accepted"))
        await first.result(await first.started(), None, error="boom", code="guest_failed")
        async with asyncio.timeout(5):
            stop = await second.stops.get()
        assert stop.id == running.id
        await second.result(running, None, error="stopped", code="stopped")
        ended = await has_ended(world, "job", whole)
    assert statuses(ended) == {"a": "failed", "b": "interrupted"}
    assert ended["status"] == "failed"


async def test_a_parallel_job_of_many_is_given_out_at_once(world):
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet) as names:
        whole = await made(world, "job", [task(f"t{i}") for i in range(100)], start=True)
        assert set(statuses(whole).values()) == {"scheduled"}
        ended = await has_ended(world, "job", whole)
    assert ended["status"] == "completed"
    assert len(set(names)) == 100


async def test_a_configurable_job_follows_the_declared_dependencies(world):
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet) as names:
        tasks = [
            task("last", depends_on=["left", "right"]),
            task("left", depends_on=["first"]),
            task("first"),
            task("right"),
        ]
        whole = await made(world, "job", tasks, execution_mode="configurable", start=True)
        ended = await has_ended(world, "job", whole)
    assert ended["status"] == "completed"
    assert names.index("first") < names.index("left") < names.index("last") == 3


async def test_a_stop_interrupts_what_runs_and_skips_the_rest(world):
    async with world.manager(), world.proplet("p1") as proplet:
        whole = await made(world, "workflow", [task("a"), task("b", depends_on=["a"])], start=True)
        path = f"/workflows/{whole['workflow_id']}"
        running = await proplet.started()
        await proplet.acknowledged(await proplet.status(running, "accepted"))
        status, body = await world.call("POST", f"{path}/stop")
        assert (status, body) == (200, {"message": "workflow stopped", "workflow_id": whole["workflow_id"]})
        await proplet.result(running, None, error="stopped", code="stopped")
        ended = await has_ended(world, "workflow", whole)
        assert statuses(ended) == {"a": "interrupted", "b": "skipped"}
        assert ended["status"] == "failed"
        status, body = await world.call("POST", f"{path}/stop")
        assert (status, body["code"]) == (409, "group_not_active")


async def test_one_that_has_ended_runs_again_as_a_whole_and_keeps_its_attempts(world):
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet, train=dict(FAILS)):
        whole = await made(world, "workflow", FIVE, start=True)
        first = await has_ended(world, "workflow", whole)
    async with world.manager(), world.proplet("p1") as proplet, doing(proplet):
        path = f"/workflows/{whole['workflow_id']}"
        status, body = await world.call("POST", f"{path}/start")
        assert (status, body["message"]) == (200, "workflow started")
        status, body = await world.call("POST", f"{path}/start")
        assert (status, body["code"]) == (409, "group_active")
        second = await has_ended(world, "workflow", whole)
        _, attempts = await world.call("GET", f"/tasks/{by_name(whole)['train']['id']}/attempts")
    assert statuses(second)["train"] == statuses(second)["announce"] == "completed"
    assert statuses(second)["repair"] == "skipped"
    assert [(each["run"], each["status"]) for each in attempts["attempts"]] == [(1, "failed"), (2, "completed")]
    assert second["start_time"] > first["finish_time"]


async def test_deleting_takes_the_tasks_along_and_is_refused_while_it_runs(world):
    async with world.manager(), world.proplet("p1") as proplet:
        whole = await made(world, "job", [task("a")], start=True)
        path = f"/jobs/{whole['job_id']}"
        status, body = await world.call("DELETE", path)
        assert (status, body["code"]) == (409, "group_active")
        task_path = f"/tasks/{whole['tasks'][0]['id']}"
        status, body = await world.call("DELETE", task_path)
        assert status == 409
        await proplet.result(await proplet.started(), None)
        await has_ended(world, "job", whole)
        status, body = await world.call("DELETE", task_path)
        assert (status, body["code"]) == (409, "task_in_group")
        async with world.session.delete(world.url + path) as response:
            assert response.status == 204
        for gone in (path, task_path):
            status, _ = await world.call("GET", gone)
            assert status == 404


async def test_a_page_of_groups_has_so_many_tasks_and_says_which_are_left_out(world, monkeypatch, database_url):
    monkeypatch.setattr("manager.plans.group_archive.MOST_TASKS_LISTED", 4)
    world.settings["MANAGER_DATABASE_URL"] = database_url.render_as_string(hide_password=False)
    async with world.manager(), world.proplet("p1") as p1:
        async with doing(p1, a1=FAILS):
            ended = await made(world, "workflow", [task("a1"), task("a2", depends_on=["a1"])], start=True)
            await has_ended(world, "workflow", ended)
        for size in (3, 2, 1):
            await made(world, "workflow", [task(f"t{n}") for n in range(size)])
        _, page = await world.call("GET", "/workflows")
        shown = page["workflows"]
        assert [(each["tasks_total"], each["tasks_ended"]) for each in shown] == [(1, 0), (2, 0), (3, 0), (2, 2)]
        # What fits is there, also after what does not.
        assert [len(each["tasks"]) for each in shown] == [1, 2, 0, 0]
        assert [each.get("tasks_omitted", False) for each in shown] == [False, False, True, True]
        WorkflowPage.model_validate(page)
        _, whole = await world.call("GET", f"/workflows/{shown[2]['workflow_id']}")
        assert (len(whole["tasks"]), whole["tasks_total"], "tasks_omitted" in whole) == (3, 3, False)


async def test_lists_are_paged_and_filtered_newest_first(world):
    async with world.manager(), world.proplet("p1") as proplet:
        jobs = [await made(world, "job", [task("a")], name=f"j{i}") for i in range(3)]
        running = await made(world, "job", [task("a")], name="running", start=True)
        await made(world, "workflow", [task("a")])
        _, page = await world.call("GET", "/jobs?limit=2")
        assert (page["total"], [job["name"] for job in page["jobs"]]) == (4, ["running", "j2"])
        _, page = await world.call("GET", "/jobs?status=pending&offset=1")
        assert (page["total"], [job["name"] for job in page["jobs"]]) == (3, ["j1", "j0"])
        _, page = await world.call("GET", "/jobs?status=running")
        assert [job["job_id"] for job in page["jobs"]] == [running["job_id"]]
        assert page["jobs"][0]["tasks"][0]["job_id"] == running["job_id"]
        _, page = await world.call("GET", "/workflows")
        assert page["total"] == 1
        status, _ = await world.call("GET", f"/workflows/{jobs[0]['job_id']}")
        assert status == 404
        status, body = await world.call("GET", "/jobs?status=skipped")
        assert (status, "status" in body["error"]) == (400, True)
        _, page = await world.call("GET", f"/tasks?job_id={jobs[0]['job_id']}")
        assert page["total"] == 1
        await proplet.result(await proplet.started(), None)


async def test_a_root_that_is_started_by_itself_takes_its_children_along(world):
    async with world.manager(), world.proplet("p1") as proplet:
        tasks = [task("a"), task("b", depends_on=["a"]), task("other")]
        whole = await made(world, "workflow", tasks)
        ids = {shown["name"]: shown["id"] for shown in whole["tasks"]}
        path = f"/workflows/{whole['workflow_id']}"
        status, body = await world.call("POST", f"/tasks/{ids['b']}/start")
        assert (status, body["code"]) == (409, "unmet_dependencies")
        assert "waits for a" in body["error"]
        status, body = await world.call("POST", f"/tasks/{ids['a']}/start")
        assert (status, body["started"], body["run"]) == (200, True, 1)
        await proplet.result(await proplet.started(), None)
        start = await proplet.started()
        assert start.name == "b"
        _, shown = await world.call("GET", path)
        assert (shown["status"], statuses(shown)["other"]) == ("running", "pending")
        await proplet.result(start, None)
        status, _ = await world.call("POST", f"{path}/start")
        assert status == 200
        start = await proplet.started()
        assert start.name == "other"
        await proplet.result(start, None)
        assert (await has_ended(world, "workflow", whole))["status"] == "completed"


async def test_a_task_whose_start_is_impossible_fails_its_branch(world):
    async with world.manager(), world.proplet("p1") as proplet:
        tasks = [
            task("a"),
            {"name": "everywhere", "image_url": IMAGE, "broadcast": True, "depends_on": ["a"]},
            task("after", depends_on=["everywhere"]),
        ]
        whole = await made(world, "workflow", tasks, start=True)
        start = await proplet.started()
    async with world.manager() as manager:  # nobody is alive in this life
        manager.attempts.finish(next(iter(manager.ledger.open_attempts())).key, _completed())
        ended = await has_ended(world, "workflow", whole)
    assert start.name == "a"
    assert statuses(ended) == {"a": "completed", "everywhere": "failed", "after": "skipped"}
    assert by_name(ended)["everywhere"]["code"] == "no_proplet"


def _completed():
    from manager.state.states import AttemptEvent
    from manager.work.runs import Outcome

    return Outcome(AttemptEvent.COMPLETED, "null")


async def test_the_same_request_under_one_key_makes_one(world):
    body = {"name": "n", "tasks": [task("a")], "start": True}
    async with world.manager(), world.proplet("p1") as proplet:
        answers = await asyncio.gather(
            *(world.call("POST", "/jobs", body, **{"Idempotency-Key": "k"}) for _ in range(3))
        )
        assert sorted(status for status, _ in answers) == [200, 200, 201]
        assert len({answer["job_id"] for _, answer in answers}) == 1
        status, answer = await world.call("POST", "/jobs", {**body, "name": "m"}, **{"Idempotency-Key": "k"})
        assert (status, answer["code"]) == (409, "idempotency_conflict")
        status, _ = await world.call("POST", "/workflows", body, **{"Idempotency-Key": "k"})
        assert status == 201
        await proplet.started()


async def test_ids_may_be_given_and_are_taken_once(world):
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    tasks = [task("a", id=first.upper()), task("b", id=second, depends_on=[first.upper()])]
    async with world.manager():
        whole = await made(world, "workflow", [{**each, "workflow_id": "w1"} for each in tasks])
        assert whole["workflow_id"] == "w1"
        assert [shown["id"] for shown in whole["tasks"]] == [first, second]
        assert whole["tasks"][1]["depends_on"] == [first]
        status, body = await world.call("POST", "/workflows", {"tasks": [task("a", id=first)]})
        assert (status, body["code"]) == (409, "task_exists")
        status, body = await world.call("POST", "/workflows", {"tasks": [task("a", workflow_id="w1")]})
        assert (status, body["code"]) == (409, "group_exists")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "tasks"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"image_url": IMAGE}]}, "tasks.0.name"),
        ({"tasks": [task("a", id="1")]}, "tasks.0.id"),
        ({"tasks": [task("a", depends_on=["b"])]}, "task 'a': field depends_on: there is no task 'b'"),
        ({"tasks": [task("a", depends_on=["b"]), task("b", depends_on=["a"])]}, "a → b → a"),
        ({"tasks": [task("a", schedule="* * * * *")]}, "field tasks.0.schedule"),
        ({"tasks": [task("a", start=True)]}, "field tasks.0.start"),
        ({"tasks": [task("a", timezone="Nowhere")]}, "task 0 ('a'): field timezone"),
        ({"tasks": [task("a"), {"name": "b", "file": "AAAA"}]}, "task 1 ('b'): body: field file"),
        ({"tasks": [task("a", job_id="x")]}, "job_id"),
        ({"tasks": [task("a", workflow_id="x"), task("b", workflow_id="y")]}, "several workflows: x, y"),
        ({"tasks": [task("a", run_if="failure")]}, "field run_if"),
        ({"tasks": [task("a", run_if="always")]}, "tasks.0.run_if"),
        ({"tasks": [task("a")], "name": 1}, "name"),
    ],
)
async def test_a_wrong_workflow_is_a_400_and_leaves_nothing(world, body, names):
    async with world.manager():
        status, answer = await world.call("POST", "/workflows", body)
        assert (status, names in answer["error"]) == (400, True), answer
        for path in ("/workflows", "/tasks"):
            _, page = await world.call("GET", path)
            assert page["total"] == 0


async def test_a_job_that_could_never_run_is_refused_and_leaves_nothing(world):
    async with world.manager():
        tasks = [task("a"), {"name": "b", "depends_on": ["a"]}]
        status, body = await world.call("POST", "/jobs", {"tasks": tasks, "start": True})
        assert (status, body["code"]) == (409, "no_binary")
        status, body = await world.call("POST", "/jobs", {"tasks": tasks, "execution_mode": "random"})
        assert (status, "execution_mode" in body["error"]) == (400, True)
        _, page = await world.call("GET", "/jobs")
        assert page["total"] == 0
        whole = await made(world, "job", tasks)
        status, body = await world.call("POST", f"/jobs/{whole['job_id']}/start")
        assert (status, body["code"]) == (409, "no_binary")
        _, shown = await world.call("GET", f"/jobs/{whole['job_id']}")
        assert statuses(shown) == {"a": "pending", "b": "pending"}


async def test_a_failure_in_one_branch_leaves_the_other_alone_across_a_restart(world):
    async with world.proplet_known("p1") as proplet:
        async with world.manager():
            await proplet.register(slots=2)
            tasks = [task("bad"), task("after", depends_on=["bad"]), task("good"), task("then", depends_on=["good"])]
            whole = await made(world, "workflow", tasks, start=True)
            starts = {start.name: start for start in [await proplet.started(), await proplet.started()]}
            await proplet.acknowledged(await proplet.result(starts["bad"], None, error="boom", code="guest_failed"))
        async with world.manager(), doing(proplet):
            await proplet.register()
            await proplet.result(starts["good"], None)
            ended = await has_ended(world, "workflow", whole)
    assert statuses(ended) == {"bad": "failed", "after": "skipped", "good": "completed", "then": "completed"}
    assert ended["status"] == "failed", "nobody dealt with it"
