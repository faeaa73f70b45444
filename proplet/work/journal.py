"""What the proplet must not forget: its attempts and invocations, their results, and updates that others do not have yet.

What a method wrote is on the disk when it returns. A method that raises ``UnavailableError`` wrote nothing and may be called
again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proplet.work.commits import Commits, GroupCommit, InlineCommit, Work
from proplet.work.outgoing import Outgoing, Ref, result_of
from proplet.work.states import AttemptEvent, AttemptState, after
from swashplate.errors import ConfigurationError, UnavailableError

SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, invocation TEXT NOT NULL, state TEXT NOT NULL,
    accepted_at REAL NOT NULL, result BLOB, PRIMARY KEY (task_id, attempt, invocation)
);
CREATE TABLE IF NOT EXISTS pending_update (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL, token TEXT NOT NULL, success BLOB NOT NULL,
    PRIMARY KEY (task_id, attempt)
);
CREATE TABLE IF NOT EXISTS pending_result (
    task_id TEXT NOT NULL, attempt INTEGER NOT NULL, invocation TEXT NOT NULL, digest TEXT NOT NULL, token TEXT NOT NULL,
    success BLOB NOT NULL, PRIMARY KEY (task_id, attempt, invocation)
);
"""
ACCEPT = "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
RECORD = (
    "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET state = excluded.state, result = excluded.result"
)
ACKNOWLEDGE = (
    "UPDATE entry SET state = 'acknowledged', result = CASE WHEN length(result) <= ? THEN result END"
    " WHERE task_id = ? AND attempt = ? AND invocation = ?"
)
SELECT_RESULT = "SELECT result FROM entry WHERE task_id = ? AND attempt = ? AND invocation = ?"
FORGET = "DELETE FROM entry WHERE task_id = ? AND attempt = ? AND invocation = ?"
FORGET_PENDING = "DELETE FROM pending_result WHERE task_id = ? AND attempt = ? AND invocation = ?"
KEPT_ENTRIES = 4000
"""Remembered after the manager has their results, so that a start that comes again does not run again."""
KEPT_RESULT_BYTES = 8192
"""A larger result is forgotten once the manager has it."""


@dataclass(frozen=True)
class PendingUpdate:
    """An update for the coordinator, and the result that is true once the coordinator has it."""

    ref: Ref
    body: bytes
    token: str
    success: bytes


@dataclass(frozen=True)
class PendingUpload:
    """A large result for the manager, and the message that is true once the manager has it."""

    ref: Ref
    digest: str
    token: str
    success: bytes


class Journal:
    """SQLite with group commit; ``inline``, for simulations, writes in the caller's thread. ``clock``: seconds since 1970."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time, inline: bool = False) -> None:
        self._path = path
        self._clock = clock
        self._commits: Commits = InlineCommit(path, SCHEMA) if inline else GroupCommit(path, SCHEMA)
        self._states: dict[Ref, AttemptState] = {}
        self._acknowledged = 0
        """How many since the oldest were forgotten."""

    async def __aenter__(self) -> Self:
        try:
            self._commits.open()
            await self._run(_take_over_earlier_tables)
            rows = await self._run(_known_entries)
        except (sqlite3.Error, UnavailableError) as error:
            await self._commits.close()
            raise ConfigurationError(f"cannot open the journal {self._path}: {error}") from error
        self._states = {Ref(*known): AttemptState(state) for *known, state in rows}
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._commits.close()

    def state(self, ref: Ref) -> AttemptState | None:
        """None for what nobody was told about yet."""
        return self._states.get(ref)

    def in_state(self, state: AttemptState) -> list[Ref]:
        """In the order in which they were accepted."""
        return [ref for ref, current in self._states.items() if current is state]

    async def accept(self, refs: Sequence[Ref]) -> None:
        state, now = AttemptState.ACCEPTED, self._clock()
        rows = [(*ref, state.value, now, None) for ref in refs]
        await self._run(lambda db: db.executemany(ACCEPT, rows))
        for ref in refs:
            self._states.setdefault(ref, state)

    async def keep_update(self, update: PendingUpdate) -> None:
        def work(db: sqlite3.Connection) -> None:
            values = (update.ref.task_id, update.ref.attempt, update.body, update.token, update.success)
            db.execute("INSERT OR REPLACE INTO pending_update VALUES (?, ?, ?, ?, ?)", values)

        await self._step(update.ref, AttemptEvent.CONTENT_KEPT, None, work)

    async def keep_upload(self, upload: PendingUpload) -> None:
        def work(db: sqlite3.Connection) -> None:
            values = (*upload.ref, upload.digest, upload.token, upload.success)
            db.execute("INSERT OR REPLACE INTO pending_result VALUES (?, ?, ?, ?, ?, ?)", values)

        await self._step(upload.ref, AttemptEvent.CONTENT_KEPT, None, work)

    async def finish(self, message: Outgoing) -> None:
        """Keep a result; what waits for the coordinator or the manager is given up or has arrived."""
        pending = self._states.get(message.ref) is AttemptState.DELIVERING

        def work(db: sqlite3.Connection) -> None:
            if pending:
                db.execute("DELETE FROM pending_update WHERE task_id = ? AND attempt = ?", message.ref[:2])
                db.execute(FORGET_PENDING, message.ref)

        await self._step(message.ref, AttemptEvent.RESULT_KEPT, message.payload, work)

    async def result(self, ref: Ref) -> Outgoing | None:
        """None when there is none, or when it was too large to be kept once the manager had it."""
        payload = await self._run(lambda db: db.execute(SELECT_RESULT, ref).fetchone())
        return result_of(ref, payload[0]) if payload is not None and payload[0] is not None else None

    async def acknowledge(self, refs: Iterable[Ref]) -> None:
        """The manager has the results of these."""
        known = [ref for ref in refs if ref in self._states]
        if not known:
            return
        for ref in known:
            self._states[ref] = after(self._states[ref], AttemptEvent.RESULT_ACKNOWLEDGED)

        def work(db: sqlite3.Connection) -> None:
            db.executemany(ACKNOWLEDGE, [(KEPT_RESULT_BYTES, *ref) for ref in known])

        await self._run(work)
        self._acknowledged += len(known)
        if self._acknowledged >= KEPT_ENTRIES:
            self._acknowledged = 0
            for old in await self._run(_forget_oldest):
                self._states.pop(old, None)

    async def unacknowledged(self) -> list[Outgoing]:
        """Those of calls first: with its deployment ends whatever call the manager knows no result of."""
        query = "SELECT task_id, attempt, invocation, result FROM entry WHERE state = ? ORDER BY invocation = '', rowid"
        rows = await self._run(lambda db: db.execute(query, (AttemptState.FINISHED.value,)).fetchall())
        return [result_of(Ref(*known), payload) for *known, payload in rows]

    async def updates(self) -> list[PendingUpdate]:
        query = "SELECT task_id, attempt, body, token, success FROM pending_update"
        rows = await self._run(lambda db: db.execute(query).fetchall())
        return [PendingUpdate(Ref(task_id, number), *rest) for task_id, number, *rest in rows]

    async def uploads(self) -> list[PendingUpload]:
        query = "SELECT task_id, attempt, invocation, digest, token, success FROM pending_result"
        rows = await self._run(lambda db: db.execute(query).fetchall())
        return [PendingUpload(Ref(*row[:3]), *row[3:]) for row in rows]

    async def _step(self, ref: Ref, event: AttemptEvent, result: bytes | None, work: Work) -> None:
        """Do ``work`` and record the state after ``event``, in one transaction.

        What ends before its acceptance was written is written with its end.
        """
        before = self._states.get(ref)
        state = after(AttemptState.ACCEPTED if before is None else before, event)
        values = (*ref, state.value, self._clock(), result)

        def both(db: sqlite3.Connection) -> None:
            work(db)
            db.execute(RECORD, values)

        self._states[ref] = state
        try:
            await self._run(both)
        except Exception:
            if before is None:
                del self._states[ref]
            else:
                self._states[ref] = before
            raise

    async def _run(self, work: Work) -> Any:
        """Every piece of work goes through here."""
        return await self._commits.run(work)


def _known_entries(db: sqlite3.Connection) -> list[tuple[str, int, str, str]]:
    return db.execute("SELECT task_id, attempt, invocation, state FROM entry ORDER BY accepted_at, rowid").fetchall()


def _forget_oldest(db: sqlite3.Connection) -> list[Ref]:
    """Drop acknowledged entries beyond the newest ``KEPT_ENTRIES``."""
    query = "SELECT task_id, attempt, invocation FROM entry WHERE state = ? ORDER BY accepted_at DESC LIMIT -1 OFFSET ?"
    old = [Ref(*row) for row in db.execute(query, (AttemptState.ACKNOWLEDGED.value, KEPT_ENTRIES)).fetchall()]
    db.executemany(FORGET, old)
    return old


def _take_over_earlier_tables(db: sqlite3.Connection) -> None:
    """Attempts and messages once had a table each, and acceptances were kept too; only attempts had large results."""
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "pending_upload" in there:
        db.execute(
            "INSERT OR IGNORE INTO pending_result SELECT task_id, attempt, '', digest, token, success FROM pending_upload"
        )
        db.execute("DROP TABLE pending_upload")
    if "attempt" in there:
        db.execute(
            "INSERT OR IGNORE INTO entry SELECT a.task_id, a.attempt, '', a.state, a.accepted_at, m.payload FROM attempt a"
            " LEFT JOIN message m ON m.kind = 'results' AND m.task_id = a.task_id AND m.attempt = a.attempt"
        )
        db.execute("DROP TABLE attempt")
        db.execute("DROP TABLE message")
