"""Invocations and samples in the database, on SQLite and on PostgreSQL."""

from manager.state import invocation_store, sample_store, store
from manager.state.records import Invocation, Task, spec_text
from manager.state.states import InvocationState, TaskState
from manager.state.tables import SCHEMA
from swashplate.database import Database
from swashplate.messages import TaskCreate


def invocation(seq: int, state: InvocationState, task_id: str = "t") -> Invocation:
    return Invocation(f"i{seq}", seq, task_id, state, "{}", float(seq), 99.0)


async def test_what_is_open_is_found_again_and_old_ones_make_room(database_url):
    async with Database(database_url, SCHEMA) as database:
        queued, running = invocation(1, InvocationState.QUEUED), invocation(2, InvocationState.RUNNING)
        done = [invocation(seq, InvocationState.COMPLETED) for seq in range(3, 9)]
        other = invocation(9, InvocationState.FAILED, "other")
        await database.run(lambda db: store.write(db, [queued, running, *done, other], {}))
        again = running.changed(state=InvocationState.QUEUED, retry=1)
        await database.run(lambda db: store.write(db, [again], {}))
        found = await database.run(invocation_store.open_invocations)
        assert sorted(found, key=lambda each: each.seq) == [queued, again]
        assert await database.run(invocation_store.last_invocation_seq) == 9
        assert await database.run(lambda db: invocation_store.prune_invocations(db, "t", 3)) == ["i3", "i4", "i5"]
        total, page = await database.run(lambda db: invocation_store.list_invocations(db, "t", 1, 3))
        assert (total, [each.seq for each in page]) == (5, [7, 6, 2])
        assert await database.run(lambda db: invocation_store.get_invocation(db, "t", "i9")) is None
        assert await database.run(lambda db: invocation_store.get_invocation(db, "other", "i9")) == other


async def test_samples_are_a_ring_and_go_with_their_task(database_url):
    spec = TaskCreate(name="t", image_url="i")
    task = Task("t", 1, spec, spec_text(spec), TaskState.COMPLETED, 1.0, 1.0)
    subject = sample_store.task_subject("t")
    async with Database(database_url, SCHEMA) as database:
        await database.run(lambda db: store.write(db, [task, invocation(1, InvocationState.FAILED)], {}))
        for number in range(1, 6):
            row = (subject, number % 3, number, str(number))
            await database.run(lambda db, row=row: sample_store.save(db, [row]))
        assert await database.run(lambda db: sample_store.newest(db, subject, 10)) == ["5", "4", "3"]
        assert await database.run(lambda db: sample_store.last_number(db, subject)) == 5
        await database.run(lambda db: store.write(db, [], {Task: ["t"]}))
        assert await database.run(lambda db: sample_store.newest(db, subject, 10)) == []
        assert (await database.run(lambda db: invocation_store.list_invocations(db, "t", 0, 10)))[0] == 0
