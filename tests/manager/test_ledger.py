"""When the ledger writes what was put."""

from __future__ import annotations

import asyncio

from manager.state import commits as writing
from manager.state import tables
from manager.state.ledger import Ledger
from manager.state.records import Task, spec_text
from manager.state.states import TaskState
from swashplate.database import Database, sqlite_url
from swashplate.messages import TaskCreate

SPEC = TaskCreate(name="add", image_url="registry/image:1")


def task(number: int) -> Task:
    return Task(
        id=f"task-{number}",
        seq=number,
        spec=SPEC,
        spec_text=spec_text(SPEC),
        state=TaskState.PENDING,
        created_at=1.0,
        updated_at=1.0,
    )


async def test_a_few_large_batches_wait_for_nobody_and_many_in_a_row_are_gathered(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "GATHER_S", 60.0)
    async with Database(sqlite_url(tmp_path / "manager.db"), tables.SCHEMA) as database:
        ledger = Ledger(database)
        await ledger.open()
        written = 0

        def more() -> None:
            """Called when a batch is on the disk: the next one follows it at once."""
            nonlocal written
            written += 1
            ledger.put(*(task(10 * written + n) for n in range(writing.CROWD + 1)))
            ledger.then(more)

        more()
        async with asyncio.timeout(30):
            while written <= writing.STREAK:
                await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(ledger.durable())
        await asyncio.wait([waiting], timeout=0.2)
        assert (written, waiting.done()) == (writing.STREAK + 1, False)
        waiting.cancel()
        monkeypatch.setattr(writing, "ANSWER_S", 0.01)
        await ledger.close()
