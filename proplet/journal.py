"""What the proplet must not forget: its attempts, and the messages and updates that others do not have yet.

SQLite in one thread of its own. Writes that wait for the disk at the same time share one commit; what a method wrote is
on the disk when it returns. A method that raises ``UnavailableError`` wrote nothing and may be called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from proplet.states import AttemptEvent, AttemptState, after
from swashplate.errors import ConfigurationError, NotFoundError, UnavailableError

SCHEMA = """
CREATE TABLE IF NOT EXISTS attempt (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, accepted_at REAL NOT NULL,
    PRIMARY KEY (task_id, attempt)
);
CREATE TABLE IF NOT EXISTS message (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, payload BLOB NOT NULL, acknowledged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS pending_update (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL, token TEXT NOT NULL, success BLOB NOT NULL,
    PRIMARY KEY (task_id, attempt)
);
"""
KEPT_ATTEMPTS = 1000
"""Attempts remembered after the manager has their results, so that a start that comes again does not run again."""
KEPT_RESULT_BYTES = 8192
"""A larger result is forgotten once the manager has it."""
LARGEST_GROUP = 256


class Ref(NamedTuple):
    """One attempt of one task."""

    task_id: str
    attempt: int


@dataclass(frozen=True)
class Outgoing:
    """A message for the manager; ``kind`` is the last level of its topic: status or results."""

    id: str
    kind: str
    ref: Ref
    payload: bytes


@dataclass(frozen=True)
class PendingUpdate:
    """An update for the coordinator, and the result that is true once the coordinator has it."""

    ref: Ref
    body: bytes
    token: str
    success: bytes


Work = Callable[[sqlite3.Connection], Any]
"""Plain SQL: it may run twice."""


class _Job(NamedTuple):
    work: Work
    done: asyncio.Future[Any]


class Journal:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._states: dict[Ref, AttemptState] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._thread.start()
        try:
            rows = await self._run(_known_attempts)
        except UnavailableError as error:
            self._end()
            raise ConfigurationError(f"cannot open the journal {self._path}: {error.sentence}") from error
        self._states = {Ref(task_id, number): AttemptState(state) for task_id, number, state in rows}
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end()
        await asyncio.to_thread(self._thread.join)

    def _end(self) -> None:
        self._closed = True
        self._jobs.put(None)

    def state(self, ref: Ref) -> AttemptState | None:
        return self._states.get(ref)

    def in_state(self, state: AttemptState) -> list[Ref]:
        """In the order in which they were accepted."""
        return [ref for ref, current in self._states.items() if current is state]

    async def accept(self, ref: Ref, message: Outgoing) -> None:
        """The attempt is known from the call on, and stays so when the disk refuses it: call again then."""
        self._states.setdefault(ref, AttemptState.ACCEPTED)

        def work(db: sqlite3.Connection) -> None:
            values = (*ref, AttemptState.ACCEPTED.value, time.time())
            db.execute("INSERT INTO attempt VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", values)
            _put(db, message)

        try:
            await self._run(work)
        except UnavailableError:
            raise
        except Exception:
            self._states.pop(ref, None)  # nothing will ever come of it
            raise
        if len(self._states) > 2 * KEPT_ATTEMPTS:
            for old in await self._run(_forget_oldest):
                self._states.pop(old, None)

    async def keep(self, message: Outgoing) -> None:
        """Keep a message that changes no attempt."""
        await self._run(lambda db: _put(db, message))

    async def keep_update(self, update: PendingUpdate) -> None:
        def work(db: sqlite3.Connection) -> None:
            values = (*update.ref, update.body, update.token, update.success)
            db.execute("INSERT OR REPLACE INTO pending_update VALUES (?, ?, ?, ?, ?)", values)

        await self._step(update.ref, AttemptEvent.UPDATE_KEPT, work)

    async def finish(self, message: Outgoing) -> None:
        """Keep the result of an attempt; an update that waits for the coordinator is given up or has arrived."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM pending_update WHERE task_id = ? AND attempt = ?", message.ref)
            _put(db, message)

        await self._step(message.ref, AttemptEvent.RESULT_KEPT, work)

    async def ask_again(self, ref: Ref) -> list[Outgoing]:
        """The messages of an attempt that the manager asks for once more; they count as unacknowledged again."""

        def work(db: sqlite3.Connection) -> list[Outgoing]:
            db.execute("UPDATE message SET acknowledged = 0 WHERE task_id = ? AND attempt = ?", ref)
            return _messages(db, "WHERE task_id = ? AND attempt = ?", ref)

        found: list[Outgoing] = await self._run(work)
        return found

    async def acknowledge(self, messages: Iterable[Outgoing]) -> None:
        """The manager has these."""
        messages = list(messages)
        results = [m.ref for m in messages if m.kind == "results" and m.ref in self._states]
        for ref in results:
            self._states[ref] = after(self._states[ref], AttemptEvent.RESULT_ACKNOWLEDGED)

        def work(db: sqlite3.Connection) -> None:
            for message in messages:
                _settle(db, message, known=message.ref in self._states)
            for ref in results:
                _set_state(db, ref, AttemptState.ACKNOWLEDGED)

        await self._run(work)

    async def unacknowledged(self) -> list[Outgoing]:
        found: list[Outgoing] = await self._run(lambda db: _messages(db, "WHERE acknowledged = 0", ()))
        return found

    async def updates(self) -> list[PendingUpdate]:
        def work(db: sqlite3.Connection) -> list[PendingUpdate]:
            rows = db.execute("SELECT task_id, attempt, body, token, success FROM pending_update").fetchall()
            return [PendingUpdate(Ref(task_id, number), *rest) for task_id, number, *rest in rows]

        found: list[PendingUpdate] = await self._run(work)
        return found

    async def _step(self, ref: Ref, event: AttemptEvent, work: Work) -> Any:
        """Do ``work`` and record the state after ``event``, in one transaction."""
        before = self._states.get(ref)
        if before is None:
            raise NotFoundError(f"the journal does not know attempt {ref.attempt} of {ref.task_id}", code="journal")
        state = after(before, event)

        def both(db: sqlite3.Connection) -> Any:
            done = work(db)
            _set_state(db, ref, state)
            return done

        self._states[ref] = state
        try:
            return await self._run(both)
        except Exception:
            self._states[ref] = before
            raise

    async def _run(self, work: Work) -> Any:
        """Raises ``UnavailableError`` when the disk refuses it, and whatever else ``work`` raises as it is."""
        if self._closed:
            raise UnavailableError("the journal is closed", code="journal")
        job = _Job(work, self._loop.create_future())
        self._jobs.put(job)
        return await asyncio.shield(job.done)

    # What follows runs in the journal's own thread, which must outlive every job: whoever waits has to hear something.

    def _serve(self) -> None:
        try:
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as database:
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
                    database.execute(f"PRAGMA {pragma}")
                database.executescript(SCHEMA)
                while self._serve_group(database):
                    pass
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            self._refuse_everything(error)

    def _serve_group(self, database: sqlite3.Connection) -> bool:
        """Wait for jobs and do all there are; False when the journal is to close."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == LARGEST_GROUP or self._jobs.empty():
                break
            job = self._jobs.get()
        if not self._done_together(database, group):
            # A full disk may have undone the whole transaction, savepoints and all: each for itself.
            for single in group:
                self._do_alone(database, single)
        return job is not None

    def _done_together(self, database: sqlite3.Connection, group: list[_Job]) -> bool:
        """False when one job has spoiled it for all."""
        if len(group) <= 1:
            return not group
        try:
            results = _transaction(database, group)
        except Exception:  # noqa: BLE001  # whose it was shows when each is tried alone
            return False
        for job, result in zip(group, results, strict=True):
            self._hand_over(_succeed, job.done, result)
        return True

    def _do_alone(self, database: sqlite3.Connection, job: _Job) -> None:
        try:
            [result] = _transaction(database, [job])
        except sqlite3.Error as error:
            self._hand_over(
                _fail, job.done, UnavailableError(f"the journal cannot be written: {error}", code="journal")
            )
        except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
            self._hand_over(_fail, job.done, error)
        else:
            self._hand_over(_succeed, job.done, result)

    def _refuse_everything(self, error: Exception) -> None:
        """The database cannot be opened, or not be used any more: all that is asked from now on fails."""
        while not (self._closed and self._jobs.empty()) and (job := self._jobs.get()) is not None:
            self._hand_over(_fail, job.done, UnavailableError(f"the journal cannot be used: {error}", code="journal"))

    def _hand_over(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)


def _transaction(database: sqlite3.Connection, jobs: list[_Job]) -> list[Any]:
    """What the jobs return, once it is on the disk; all or nothing."""
    try:
        database.execute("BEGIN IMMEDIATE")
        results = [job.work(database) for job in jobs]
        database.execute("COMMIT")
        return results
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _succeed(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _known_attempts(db: sqlite3.Connection) -> list[tuple[str, int, str]]:
    return db.execute("SELECT task_id, attempt, state FROM attempt ORDER BY accepted_at").fetchall()


def _put(db: sqlite3.Connection, message: Outgoing) -> None:
    db.execute(
        "INSERT INTO message (id, kind, task_id, attempt, payload) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, acknowledged = 0",
        (message.id, message.kind, *message.ref, message.payload),
    )


def _messages(db: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> list[Outgoing]:
    query = f"SELECT id, kind, task_id, attempt, payload FROM message {where} ORDER BY sequence"  # noqa: S608  # ours
    return [
        Outgoing(message_id, kind, Ref(task_id, number), payload)
        for message_id, kind, task_id, number, payload in db.execute(query, values)
    ]


def _settle(db: sqlite3.Connection, message: Outgoing, *, known: bool) -> None:
    """Keep what a start that comes again would be answered with: the acceptance until the result, a small result."""
    if message.kind == "results":
        db.execute("DELETE FROM message WHERE kind = 'status' AND task_id = ? AND attempt = ?", message.ref)
        known = known and len(message.payload) <= KEPT_RESULT_BYTES
    if known:
        db.execute("UPDATE message SET acknowledged = 1 WHERE id = ?", (message.id,))
    else:
        db.execute("DELETE FROM message WHERE id = ?", (message.id,))


def _set_state(db: sqlite3.Connection, ref: Ref, state: AttemptState) -> None:
    """Of an attempt whose acceptance may not be written yet, should the disk have refused just that."""
    upsert = "INSERT INTO attempt VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state"
    db.execute(upsert, (*ref, state.value, time.time()))


def _forget_oldest(db: sqlite3.Connection) -> list[Ref]:
    """Drop acknowledged attempts beyond the newest ``KEPT_ATTEMPTS``, with their messages."""
    query = "SELECT task_id, attempt FROM attempt WHERE state = ? ORDER BY accepted_at DESC LIMIT -1 OFFSET ?"
    old = [Ref(*row) for row in db.execute(query, (AttemptState.ACKNOWLEDGED.value, KEPT_ATTEMPTS)).fetchall()]
    for ref in old:
        db.execute("DELETE FROM message WHERE task_id = ? AND attempt = ?", ref)
        db.execute("DELETE FROM attempt WHERE task_id = ? AND attempt = ?", ref)
    return old
