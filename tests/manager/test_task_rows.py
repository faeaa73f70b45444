"""A task that is there already is written as it is now, whatever of it has changed."""

from dataclasses import fields, replace

import pytest

from manager.state import store
from manager.state.records import Task, spec_text
from manager.state.states import TaskState
from manager.state.tables import SCHEMA
from swashplate.database import Database, sqlite_url
from swashplate.messages import TaskCreate

SPEC = TaskCreate(name="add", image_url="x:1")
RENAMED = TaskCreate(name="sub", image_url="x:1")
BEFORE = Task("t", 1, SPEC, spec_text(SPEC), TaskState.PENDING, 1.0, 1.0, stopping=True, fingerprint=b"\0")
CHANGED = {
    "seq": 7,
    "state": TaskState.RUNNING,
    "created_at": 2.0,
    "updated_at": 3.0,
    "run": 4,
    "attempt": 5,
    "digest": "sha256:" + "0" * 64,
    "size": 6,
    "proplet_id": "p",
    "group_id": "g",
    "position": 8,
    "idempotency_key": "k",
    "fingerprint": b"\0\xff",
    "next_run": 9.0,
    "stopping": False,
    "result": "10",
    "error": "e",
    "code": "c",
    "started_at": 11.0,
    "finished_at": 12.0,
}


async def test_every_field_that_changes_is_found_again(database_url):
    assert {field.name for field in fields(Task)} == {*CHANGED, "id", "spec", "spec_text"}
    changes = [*({name: value} for name, value in CHANGED.items()), {"spec": RENAMED, "spec_text": spec_text(RENAMED)}]
    tasks = [replace(BEFORE, id=f"t{number}", seq=100 + number) for number in range(len(changes))]
    async with Database(database_url, SCHEMA) as database:
        await database.run(lambda db: store.write(db, tasks, {}))
        now = [replace(task, **change) for task, change in zip(tasks, changes, strict=True)]
        await database.run(lambda db: store.write(db, now, {}))
        found = await database.run(lambda db: {task.id: store.get_task(db, task.id) for task in tasks})
    assert found == {task.id: task for task in now}


@pytest.mark.parametrize("together", [1, 3])
async def test_what_a_run_changes_touches_no_index_but_that_of_states_and_ends(tmp_path, together):
    """What is put into an index anew is taken out before: SQLite counts both as changes of its pages."""
    tasks = [replace(BEFORE, id=f"t{number}", seq=number) for number in range(together)]
    statements = []
    async with Database(sqlite_url(tmp_path / "m.db"), SCHEMA) as database:
        await database.run(lambda db: store.write(db, tasks, {}))

        def traced(db):
            raw = db.connection.driver_connection
            raw.set_trace_callback(statements.append)
            store.write(db, [task.changed(state=TaskState.SCHEDULED, run=1) for task in tasks], {})
            raw.set_trace_callback(None)

        await database.run(traced)
    updates = [text for text in statements if text.startswith("UPDATE tasks")]
    assert len(updates) == together
    assert not any(column in text for text in updates for column in ("name=", "group_id=", "digest=", "next_run="))
    assert not any(text.startswith("INSERT INTO tasks") for text in statements)
