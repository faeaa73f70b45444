"""A database from before is taken over, and what was in it keeps its meaning."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from manager.repetitions import fingerprint
from manager.state import store
from manager.state.catalogue import Filter, find
from manager.state.ledger import Ledger
from manager.state.records import AttemptKey
from manager.state.states import AttemptState, TaskState
from manager.state.tables import SCHEMA, proplets, samples, tasks
from swashplate.database import Database
from tests.support import schemas

OLD = Path(__file__).with_name("old") / "v0001.sql"


def task_id(n):
    return f"00000000-0000-4000-8000-{n:012d}"


@pytest.fixture
def old_database(new_database):
    return schemas.restored(new_database(), SCHEMA, OLD)


async def test_migrated_and_fresh_databases_have_the_same_schema(new_database):
    assert schemas.migrated(new_database(), SCHEMA) == await schemas.opened(new_database(), SCHEMA)


async def test_a_database_that_was_taken_over_has_the_same_schema_as_a_fresh_one(old_database, new_database):
    fresh = await schemas.opened(new_database(), SCHEMA)
    assert await schemas.opened(old_database, SCHEMA) == fresh


async def test_every_task_is_listed_newest_first_as_it_was(old_database):
    with sqlite3.connect(":memory:") as old:
        old.executescript(OLD.read_text())
        before = old.execute("SELECT id, state, result, error, code, created_at, finished_at FROM tasks").fetchall()
    async with Database(old_database, SCHEMA) as database:
        total, found = await database.run(lambda db: store.list_tasks(db, 0, 100))
    assert total == len(before) == 8
    assert [task.id for task in found] == [task_id(n) for n in range(8, 0, -1)]
    after = [(t.id, int(t.state), t.result, t.error, t.code, t.created_at, t.finished_at) for t in found]
    assert sorted(after) == sorted(before)
    completed = next(task for task in found if task.id == task_id(2))
    assert completed.spec.file.startswith("sha256:")
    failed = next(task for task in found if task.id == task_id(6))
    assert (failed.spec.inputs, failed.spec.env, failed.spec.retries) == (["2", "40"], {"A": "ü"}, 1)
    assert (failed.spec.timeout_s, failed.spec.metadata) == (60, {"team": "a", "n": 6})


async def test_tasks_are_found_and_counted(old_database):
    async with Database(old_database, SCHEMA) as database:

        async def count(**wanted):
            return (await database.run(lambda db: find(db, Filter(**wanted), 0, 10)))[0]

        assert await count(metadata={"team": "a"}) == 7
        assert await count(metadata={"team": "a", "n": 5}) == 1
        assert await count(state=int(TaskState.SCHEDULED)) == 3
        assert await count(name="task-2") == 1


async def test_what_had_not_ended_goes_on(old_database):
    async with Database(old_database, SCHEMA) as database:
        ledger = Ledger(database)
        await ledger.open()
        try:
            assert {task.id for task in ledger.active_tasks()} == {task_id(n) for n in (3, 4, 5, 8)}
            resolving = ledger.attempt(AttemptKey(task_id(3), 1))
            assert (resolving.state, resolving.target, resolving.proplet_id) == (AttemptState.QUEUED, "p-1", None)
            assert resolving.deadline is None
            offered = ledger.attempt(AttemptKey(task_id(4), 2))
            assert (offered.state, offered.target, offered.proplet_id) == (AttemptState.OFFERED, None, "p-1")
            assert (offered.retry, offered.run, offered.deadline) == (1, 1, 1763800300.5)
            accepted = ledger.attempt(AttemptKey(task_id(5), 1))
            assert (accepted.state, accepted.accepted_at) == (AttemptState.ACCEPTED, 1763800002.0)
            again = ledger.attempt(AttemptKey(task_id(8), 2))
            assert (again.run, again.retry, again.state) == (2, 0, AttemptState.OFFERED)
            assert len(ledger.open_attempts()) == 4
        finally:
            await ledger.close()


async def test_the_result_is_the_attempt_s_too(old_database):
    async with Database(old_database, SCHEMA) as database:
        attempts = await database.run(lambda db: store.attempts_of(db, task_id(2)))
    assert [(attempt.state, attempt.result) for attempt in attempts] == [(AttemptState.COMPLETED, '"42"')]


async def test_a_request_that_is_sent_again_after_the_upgrade_is_the_same_request(old_database):
    """The coordinator repeats a participant's task under its idempotency key."""
    async with Database(old_database, SCHEMA) as database:
        task = await database.run(lambda db: store.task_by_key(db, "round-1/p-5"))
    assert task.fingerprint == fingerprint(task.spec)


async def test_tasks_of_groups_are_counted_and_samples_of_what_was_deleted_removed(new_database):
    url, known = new_database(), task_id(1)

    def as_before(db):
        at = {"state": 3, "created_at": 1, "updated_at": 1, "run": 1, "attempt": 1, "position": 0, "stopping": False}
        db.execute(tasks.insert(), {"id": known, "seq": 1, "name": "t", "spec_text": '{"name": "t"}', **at})
        for n in (3, 4):
            member = {"id": task_id(n), "seq": n, "name": "t", "spec_text": '{"name": "t"}', "group_id": "g"}
            db.execute(tasks.insert(), {**at, **member, "state": n})
        db.execute(proplets.insert(), {"id": "p-1", "description": "{}", "last_seen": 1})
        for subject in (f"task {known}", f"task {task_id(2)}", "proplet p-1", "proplet p-2"):
            db.execute(samples.insert(), {"subject": subject, "slot": 0, "number": 1, "sample": "{}"})
        for table in ("attempts", "invocations"):
            db.execute(text(f"ALTER TABLE {table} DROP COLUMN report"))
        db.execute(text("UPDATE alembic_version SET version_num = '0004'"))

    async with Database(url, SCHEMA) as database:
        await database.run(as_before)
    async with Database(url, SCHEMA) as database:
        left = await database.run(lambda db: db.execute(samples.select()).all())
        counted = await database.run(lambda db: store.states_of_groups(db, ["g", "none"]))
    assert counted == {"g": {TaskState.COMPLETED: 1, TaskState.FAILED: 1}, "none": {}}
    assert {row.subject for row in left} == {f"task {known}", "proplet p-1"}


async def test_proplets_are_remembered(old_database):
    async with Database(old_database, SCHEMA) as database:
        found = await database.run(store.all_proplets)
    assert [(proplet_id, description["name"]) for proplet_id, description, _ in found] == [
        ("p-1", "one"),
        ("p-2", "two"),
    ]
