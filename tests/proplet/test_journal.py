"""The journal outlives what goes wrong with one of its writes, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import asynccontextmanager, closing

import pytest

from proplet.journal import Journal, Outgoing, PendingUpdate, Ref
from proplet.states import AttemptState
from swashplate.errors import ConfigurationError, UnavailableError

A, B, UNSTORABLE = Ref("a", 1), Ref("b", 1), Ref("c", 2**63)


def accepted(ref: Ref) -> Outgoing:
    return Outgoing(f"{ref.task_id}/accepted", "status", ref, b"{}")


def result(ref: Ref) -> Outgoing:
    return Outgoing(f"{ref.task_id}/result", "results", ref, b"{}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path):
    async with asyncio.timeout(20), Journal(path) as journal:
        yield journal


@asynccontextmanager
async def one_commit(journal: Journal):
    """What is asked of the journal meanwhile waits, and is then done at once."""
    gate = threading.Event()
    held = asyncio.ensure_future(journal._run(lambda _db: gate.wait()))
    await asyncio.sleep(0)
    yield
    gate.set()
    await held


async def together(journal: Journal, *works):
    async with one_commit(journal):
        tasks = [asyncio.ensure_future(work) for work in works]
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


def sql(path, script: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


def refuse(path, condition: str) -> None:
    """From now on a message that meets ``condition`` undoes the whole transaction, as a full disk may."""
    what = f"CREATE TRIGGER refuse BEFORE INSERT ON message WHEN {condition} BEGIN SELECT RAISE(ROLLBACK, 'full'); END"
    sql(path, what)


async def reopened(path) -> Journal:
    async with Journal(path) as journal:
        return journal


async def test_a_write_that_cannot_be_made_fails_alone(journal, path):
    outcomes = await together(journal, *(journal.accept(ref, accepted(ref)) for ref in (A, UNSTORABLE, B)))
    assert [type(outcome) for outcome in outcomes] == [type(None), OverflowError, type(None)]
    assert journal.state(UNSTORABLE) is None
    again = await reopened(path)
    assert again.in_state(AttemptState.ACCEPTED) == [A, B]


async def test_a_write_that_undoes_the_transaction_fails_alone(journal, path):
    refuse(path, "NEW.task_id = 'x'")
    x = Ref("x", 1)
    outcomes = await together(journal, *(journal.accept(ref, accepted(ref)) for ref in (A, x, B)))
    assert [type(outcome) for outcome in outcomes] == [type(None), UnavailableError, type(None)]
    again = await reopened(path)
    assert again.in_state(AttemptState.ACCEPTED) == [A, B]
    assert [m.ref for m in await journal.unacknowledged()] == [A, B]


async def test_a_step_that_failed_was_not_taken(journal):
    await journal.accept(A, accepted(A))
    with pytest.raises(OverflowError):
        await journal.keep_update(PendingUpdate(A, 2**70, "token", b""))
    assert journal.state(A) is AttemptState.ACCEPTED
    await journal.finish(result(A))
    assert await journal.updates() == []


async def test_an_acceptance_written_after_its_result_does_not_undo_it(journal, path):
    refuse(path, "NEW.kind = 'status'")
    with pytest.raises(UnavailableError):
        await journal.accept(A, accepted(A))
    await journal.finish(result(A))
    sql(path, "DROP TRIGGER refuse")
    await journal.accept(A, accepted(A))
    assert journal.state(A) is AttemptState.FINISHED
    assert (await reopened(path)).state(A) is AttemptState.FINISHED


async def test_a_database_that_is_gone_is_an_error_and_no_wait(journal):
    with pytest.raises(UnavailableError):
        await journal._run(lambda db: db.close())
    with pytest.raises(UnavailableError):
        await journal.keep(result(A))


async def test_a_closed_journal_refuses(path):
    journal = await reopened(path)
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError, match="closed"):
            await journal.keep(result(A))


async def test_a_file_that_is_no_journal_is_a_configuration_error(path):
    path.write_bytes(b"no database" * 1000)
    async with asyncio.timeout(20):
        with pytest.raises(ConfigurationError, match=r"journal\.db"):
            await reopened(path)
