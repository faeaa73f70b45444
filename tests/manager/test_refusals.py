"""What the database will never store is in nobody's way, and whoever asked for it is told."""

import asyncio
import secrets
import uuid
from dataclasses import replace
from itertools import count

import pytest

from manager.state import store
from manager.state.ledger import Ledger
from manager.state.records import AttemptKey, Task, spec_text
from manager.state.refusals import NotStorableError, Refusal
from manager.state.states import AttemptEvent, TaskState
from manager.state.tables import SCHEMA
from manager.work.runs import Outcome
from swashplate.database import Database
from swashplate.messages import TaskCreate
from tests.manager.conftest import PATIENCE

TOO_LARGE = 2**70
"""An integer that neither database takes in any column."""
SPLIT = "\ud800"
"""Half a character: text that neither takes."""
_seq = count(1)


def task(name="t", **fields):
    spec = TaskCreate(name=name, image_url="x:1")
    fields = {"state": TaskState.PENDING} | fields
    return Task(str(uuid.uuid4()), next(_seq), spec, spec_text(spec), created_at=1.0, updated_at=1.0, **fields)


@pytest.fixture
async def database(database_url):
    async with Database(database_url, SCHEMA) as opened:
        yield opened


@pytest.fixture
async def ledger(database):
    opened = Ledger(database)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def world_of_either(world, database_url):
    world.settings["MANAGER_DATABASE_URL"] = database_url.render_as_string(hide_password=False)
    return world


async def said(waiting):
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*waiting, return_exceptions=True)


async def test_of_a_batch_only_the_refused_record_is_not_written(ledger, database):
    good, bad = [task(f"good-{n}") for n in range(7)], [task("bad", size=TOO_LARGE), task("worse", code=SPLIT)]
    records = [*good[:3], bad[0], *good[3:6], bad[1], good[6]]
    refusals: list[Refusal] = []
    ledger.on_refused(refusals.append)
    ledger.put(*records)
    answers = await said([ledger.confirmed(each) for each in records])
    for record, answered in zip(records, answers, strict=True):
        if record in good:
            assert answered is record
        else:
            assert isinstance(answered, NotStorableError)
            assert record.id in answered.sentence
    assert "field size" in answers[3].sentence
    assert "field code" in answers[7].sentence
    assert len(refusals) == 2
    assert all(refusal.new for refusal in refusals)
    total, found = await database.run(lambda db: store.list_tasks(db, 0, 10))
    assert (total, found) == (7, good[::-1])
    assert ledger.trouble is None


async def test_of_two_that_exclude_each_other_the_first_is_stored(ledger, database):
    first, second = task(idempotency_key="k"), task(idempotency_key="k")
    ledger.put(first, second)
    answers = await said([ledger.confirmed(first), ledger.confirmed(second)])
    assert answers[0] is first
    assert isinstance(answers[1], NotStorableError)
    later = task()
    ledger.put(later)
    assert await ledger.confirmed(later) is later
    assert await database.run(lambda db: store.get_task(db, second.id)) is None


async def test_what_was_to_follow_from_a_refused_record_does_not_and_the_rest_does(ledger):
    told, good, bad = [], task(), task(size=TOO_LARGE)
    ledger.put(good, bad)
    ledger.then(lambda: told.append("good"), about=good.id)
    ledger.then(lambda: told.append("bad"), about=bad.id)
    ledger.then(lambda: told.append("nobody's"))
    await said([ledger.durable()])
    assert told == ["good", "nobody's"]


async def test_what_is_too_long_for_an_index_is_refused_too(postgres_server):
    """PostgreSQL calls that an operational error, which it is not."""
    async with Database(postgres_server.new_database(), SCHEMA) as database:
        ledger = Ledger(database)
        await ledger.open()
        spec = TaskCreate(name="t").model_copy(update={"name": secrets.token_hex(20_000)})
        long = Task("long", 1, spec, spec_text(spec), TaskState.PENDING, 1.0, 1.0)
        ledger.put(long)
        (answered,) = await said([ledger.confirmed(long)])
        assert isinstance(answered, NotStorableError)
        await ledger.close()


async def test_a_run_that_cannot_be_stored_fails_and_everybody_else_goes_on(world_of_either):
    world = world_of_either
    async with world.manager() as manager, world.proplet("p1", slots=4) as p1:
        good = await world.launch()
        start = await p1.started()
        bad = await world.launch(name="bad")
        await p1.status(await p1.started(), "accepted")
        known = await world.until(lambda shown: shown["status"] == "running", f"/tasks/{bad['id']}")
        manager.ledger.put(manager.ledger.task(bad["id"]).changed(size=TOO_LARGE))
        failed = await world.ended(bad["id"])
        assert (failed["status"], failed["code"]) == ("failed", "not_storable")
        assert f"field size of task {bad['id']}" in failed["error"]
        assert failed["digest"] == known["digest"]
        assert (await p1.stopped()).id == bad["id"]
        await p1.acknowledged(await p1.result(start, "42"))
        assert (await world.ended(good["id"]))["results"] == "42"
        assert (await world.call("GET", "/health"))[0] == 200
        _, shown = await world.call("GET", f"/tasks/{bad['id']}/attempts")
        assert [each["status"] for each in shown["attempts"]] == ["failed"]
        # It can be started again, now that what was wrong is right.
        assert (await world.call("POST", f"/tasks/{bad['id']}/start"))[0] == 200
        await p1.result(await p1.started(), "43")
        await world.until(lambda shown: shown.get("results") == "43", f"/tasks/{bad['id']}")


async def test_a_result_that_cannot_be_stored_fails_its_task_and_its_workflow(world_of_either):
    world = world_of_either
    body = {
        "start": True,
        "tasks": [{"name": name, "image_url": "registry/image:1"} for name in ("one", "two")],
    }
    async with world.manager() as manager, world.proplet("p1", slots=2) as p1:
        _, workflow = await world.call("POST", "/workflows", body)
        first, second = await p1.started(), await p1.started()
        await p1.acknowledged(await p1.result(first, "fine"))
        manager.attempts.finish(AttemptKey(second.id, second.attempt), Outcome(AttemptEvent.COMPLETED, SPLIT))
        path = f"/workflows/{workflow['workflow_id']}"
        ended = await world.until(lambda shown: shown["status"] in {"completed", "failed"}, path)
        assert ended["status"] == "failed"
        by_id = {each["id"]: each for each in ended["tasks"]}
        assert by_id[first.id]["results"] == "fine"
        assert by_id[second.id]["code"] == "not_storable"
        assert "field result" in by_id[second.id]["error"]
        attempts = (await world.call("GET", f"/tasks/{second.id}/attempts"))[1]["attempts"]
        assert [(each["status"], each["code"]) for each in attempts] == [("failed", "not_storable")]
    async with world.manager() as manager:
        assert manager.ledger.active_tasks() == []
        assert (await world.call("GET", path))[1]["status"] == "failed"


async def test_a_new_whole_of_which_a_part_cannot_be_stored_leaves_nothing(world_of_either, monkeypatch):
    world = world_of_either
    async with world.manager() as manager, world.proplet("p1") as p1:
        made = manager.tasks.made

        async def too_large(spec, *args, **more):
            found = await made(spec, *args, **more)
            return found.changed(size=TOO_LARGE) if spec.name == "two" else found

        monkeypatch.setattr(manager.tasks, "made", too_large)
        tasks = [{"name": name, "image_url": "registry/image:1"} for name in ("one", "two")]
        status, answer = await world.call("POST", "/workflows", {"tasks": tasks})
        assert (status, answer["code"]) == (400, "not_storable")
        assert (await world.call("GET", "/workflows"))[1]["total"] == 0
        assert (await world.call("GET", "/tasks"))[1]["total"] == 0
        assert manager.ledger.running_groups() == []
        # Its proplet has all its room.
        good = await world.launch()
        await p1.result(await p1.started(), "1")
        assert (await world.ended(good["id"]))["results"] == "1"


async def test_a_change_that_cannot_be_stored_leaves_the_task_as_it_was(world_of_either):
    world = world_of_either
    async with world.manager() as manager:
        _, made = await world.call("POST", "/tasks", {"name": "t", "image_url": "registry/image:1"})
        known = await manager.ledger.fetch(made["id"])
        manager.ledger.put(known.changed(size=TOO_LARGE))
        with pytest.raises(NotStorableError, match="field size"):
            await manager.ledger.durable(known.id)
        assert (await world.call("GET", f"/tasks/{known.id}"))[1] == made
        assert (await world.call("POST", f"/tasks/{known.id}/start"))[0] == 200


async def test_what_cannot_even_be_stored_as_failed_is_dropped(world_of_either, monkeypatch):
    """An attempt that nobody can write ends its run all the same, and nobody waits for it."""
    world = world_of_either
    async with world.manager() as manager, world.proplet("p1") as p1:
        task = await world.launch()
        start = await p1.started()
        attempt = manager.ledger.attempt(AttemptKey(start.id, start.attempt))
        manager.ledger.put(attempt.changed(retry=TOO_LARGE))
        failed = await world.ended(task["id"])
        assert failed["code"] == "not_storable"
        assert f"field retry of attempt {task['id']} attempt 1" in failed["error"]
        other = await world.launch()
        await p1.result(await p1.started(), "1")
        assert (await world.ended(other["id"]))["results"] == "1"


async def test_a_call_whose_result_cannot_be_stored_fails(world_of_either):
    world = world_of_either
    async with world.manager() as manager, world.proplet("p1") as p1:
        task = await world.launch(latent=True)
        await p1.deployed()
        path = f"/tasks/{task['id']}"
        await world.until(lambda shown: shown.get("stage") == "ready", path)
        calling = asyncio.create_task(world.call("POST", f"{path}/invoke", {"inputs": ["1"]}))
        invoke = await p1.invoked()
        (known,) = manager.ledger.open_invocations()
        manager.ledger.put(known.changed(error=SPLIT))
        async with asyncio.timeout(PATIENCE):
            _, answer = await calling
        assert answer["code"] == "not_storable"
        assert invoke.task_id == task["id"]
        again = asyncio.create_task(world.call("POST", f"{path}/invoke", {"inputs": ["1"]}))
        await p1.invoke_result(await p1.invoked(), "2")
        assert (await again)[1]["results"] == "2"


async def test_what_cannot_even_be_looked_up_is_given_up(ledger):
    good, bad = task(), replace(task(), id=SPLIT)
    ledger.put(bad, good)
    answers = await said([ledger.confirmed(bad), ledger.confirmed(good)])
    assert isinstance(answers[0], NotStorableError)
    assert answers[1] is good
