"""The journal outlives what goes wrong with one of its writes, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from contextlib import asynccontextmanager, closing

import pytest

from proplet.work.journal import KEPT_RESULT_BYTES, Journal, PendingUpdate, PendingUpload
from proplet.work.outgoing import Outgoing, Ref, result_of
from proplet.work.states import AttemptState
from swashplate.errors import ConfigurationError, UnavailableError

A, B, UNSTORABLE = Ref("a", 1), Ref("b", 1), Ref("c", 2**63)


def result(ref: Ref) -> Outgoing:
    return result_of(ref, b"{}")


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
    """From now on an entry that meets ``condition`` undoes the whole transaction, as a full disk may."""
    what = f"CREATE TRIGGER refuse BEFORE INSERT ON entry WHEN {condition} BEGIN SELECT RAISE(ROLLBACK, 'full'); END"
    sql(path, what)


async def reopened(path) -> Journal:
    async with Journal(path) as journal:
        return journal


async def test_a_write_that_cannot_be_made_fails_alone(journal, path):
    outcomes = await together(journal, *(journal.accept([ref]) for ref in (A, UNSTORABLE, B)))
    assert [type(outcome) for outcome in outcomes] == [type(None), OverflowError, type(None)]
    assert journal.state(UNSTORABLE) is None
    again = await reopened(path)
    assert again.in_state(AttemptState.ACCEPTED) == [A, B]


async def test_a_write_that_undoes_the_transaction_fails_alone(journal, path):
    refuse(path, "NEW.task_id = 'x'")
    x = Ref("x", 1)
    outcomes = await together(journal, *(journal.accept([ref]) for ref in (A, x, B)))
    assert [type(outcome) for outcome in outcomes] == [type(None), UnavailableError, type(None)]
    again = await reopened(path)
    assert again.in_state(AttemptState.ACCEPTED) == [A, B]


async def test_a_step_that_failed_was_not_taken(journal):
    await journal.accept([A])
    with pytest.raises(OverflowError):
        await journal.keep_update(PendingUpdate(A, 2**70, "token", b""))
    assert journal.state(A) is AttemptState.ACCEPTED
    await journal.finish(result(A))
    assert await journal.updates() == []


async def test_an_acceptance_written_after_its_result_does_not_undo_it(journal, path):
    refuse(path, "NEW.result IS NULL")
    with pytest.raises(UnavailableError):
        await journal.accept([A])
    await journal.finish(result(A))
    sql(path, "DROP TRIGGER refuse")
    await journal.accept([A])
    assert journal.state(A) is AttemptState.FINISHED
    assert (await reopened(path)).state(A) is AttemptState.FINISHED


async def test_a_database_that_is_gone_is_an_error_and_no_wait(journal):
    with pytest.raises(UnavailableError):
        await journal._run(lambda db: db.close())
    with pytest.raises(UnavailableError):
        await journal.finish(result(A))


async def test_a_closed_journal_refuses(path):
    journal = await reopened(path)
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError, match="closed"):
            await journal.finish(result(A))


async def test_a_file_that_is_no_journal_is_a_configuration_error(path):
    path.write_bytes(b"no database" * 1000)
    async with asyncio.timeout(20):
        with pytest.raises(ConfigurationError, match=r"journal\.db"):
            await reopened(path)


async def test_an_end_without_an_acceptance_is_known_after_a_restart(path):
    async with Journal(path) as journal:
        await journal.finish(result(A))
    again = await reopened(path)
    assert again.state(A) is AttemptState.FINISHED
    async with Journal(path) as journal:
        assert await journal.unacknowledged() == [result(A)]
        await journal.acknowledge([A])
    async with Journal(path) as journal:
        assert await journal.unacknowledged() == []
        assert await journal.result(A) == result(A)


async def test_a_large_result_is_forgotten_once_it_is_acknowledged(journal):
    large = result_of(A, b"x" * (KEPT_RESULT_BYTES + 1))
    await journal.finish(large)
    assert await journal.result(A) == large
    await journal.acknowledge([A])
    assert await journal.result(A) is None


async def test_the_oldest_acknowledged_are_forgotten_and_others_never(path, monkeypatch):
    monkeypatch.setattr("proplet.work.journal.KEPT_ENTRIES", 3)
    async with Journal(path, clock=itertools.count().__next__) as journal:
        await journal.accept([A])
        refs = [Ref(f"t{number}", 1) for number in range(7)]
        for ref in refs:
            await journal.finish(result(ref))
            await journal.acknowledge([ref])
        assert [ref for ref in refs if journal.state(ref) is not None] == refs[3:]
        assert journal.state(A) is AttemptState.ACCEPTED


async def test_an_inline_journal_writes_the_same_without_a_thread(path):
    before = threading.active_count()
    async with Journal(path, inline=True) as journal:
        assert threading.active_count() == before
        await journal.accept([A, B])
        await journal.finish(result(A))
    again = await reopened(path)
    assert (again.state(A), again.state(B)) == (AttemptState.FINISHED, AttemptState.ACCEPTED)


async def test_results_of_calls_come_before_that_of_their_deployment(path):
    """With which the manager would end them."""
    deployment, call = Ref("a", 1), Ref("a", 1, "i")
    async with Journal(path) as journal:
        await journal.accept([deployment, call])
        await journal.finish(result(deployment))
        await journal.finish(result(call))
        assert [message.ref for message in await journal.unacknowledged()] == [call, deployment]


async def test_large_results_of_an_earlier_layout_are_taken_over(path):
    async with Journal(path) as journal:
        await journal.accept([A])
    sql(
        path,
        """
        CREATE TABLE pending_upload (task_id TEXT, attempt INTEGER, digest TEXT, token TEXT, success BLOB);
        INSERT INTO pending_upload VALUES ('a', 1, 'sha256:00', 'secret', x'7b7d');
        """,
    )
    for _ in range(2):
        async with Journal(path) as journal:
            assert await journal.uploads() == [PendingUpload(A, "sha256:00", "secret", b"{}")]


async def test_the_large_result_of_a_call_is_pending_by_itself(path):
    uploads = [PendingUpload(Ref("a", 1, call), "sha256:00", "secret", b"{}") for call in ("i", "j")]
    async with Journal(path) as journal:
        for upload in uploads:
            await journal.keep_upload(upload)
        await journal.finish(result(uploads[0].ref))
        assert await journal.uploads() == uploads[1:]


async def test_results_of_an_earlier_layout_are_taken_over(path):
    sql(
        path,
        """CREATE TABLE attempt (task_id TEXT, attempt INTEGER, state TEXT, accepted_at REAL);
        CREATE TABLE message (sequence INTEGER, id TEXT, kind TEXT, task_id TEXT, attempt INTEGER, payload BLOB,
                              acknowledged INTEGER);
        INSERT INTO attempt VALUES ('a', 1, 'finished', 1.0), ('b', 1, 'accepted', 2.0);
        INSERT INTO message VALUES (1, 'a/1/accepted', 'status', 'a', 1, x'00', 0), (2, 'x', 'results', 'a', 1, x'7b7d', 0);
        """,
    )
    async with Journal(path) as journal:
        assert await journal.unacknowledged() == [result(A)]
        assert journal.in_state(AttemptState.ACCEPTED) == [B]
