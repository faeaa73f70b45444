"""The manager's tables, and the few questions and changes that its rooms need. Every function takes an open transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
    update,
)

from manager.states import AttemptState, TaskState
from swashplate.database import Schema
from swashplate.messages import TaskCreate

metadata = MetaData()
SCHEMA = Schema("manager", metadata, "manager.migrations")

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("digest", String),
    Column("size", Integer),
    Column("attempt", Integer, nullable=False),
    Column("proplet_id", String),
    Column("idempotency_key", String, unique=True),
    Column("fingerprint", LargeBinary),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
)

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("proplet_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("deadline", Float, nullable=False),
    Column("error", Text),
    Column("code", String),
    Column("created_at", Float, nullable=False),
    Column("accepted_at", Float),
    Column("finished_at", Float),
)
Index("attempts_by_state", attempts.c.state)
Index("tasks_by_age", tasks.c.created_at)

proplets = Table(
    "proplets",
    metadata,
    Column("id", String, primary_key=True),
    Column("description", Text, nullable=False),
    Column("last_seen", Float, nullable=False),
)


@dataclass(frozen=True)
class Task:
    """One row of ``tasks``; times are seconds since the epoch, ``attempt`` the number of the latest attempt (0: none)."""

    id: str
    state: TaskState
    spec: TaskCreate
    attempt: int
    created_at: float
    updated_at: float
    digest: str | None = None
    size: int | None = None
    proplet_id: str | None = None
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    result: str | None = None
    error: str | None = None
    code: str | None = None
    started_at: float | None = None
    finished_at: float | None = None

    def changed(self, **fields: Any) -> Task:
        return replace(self, **fields)


@dataclass(frozen=True)
class Attempt:
    """One row of ``attempts``. ``deadline`` is when its lease ends, in seconds since the epoch."""

    task_id: str
    number: int
    proplet_id: str
    state: AttemptState
    deadline: float
    created_at: float
    error: str | None = None
    code: str | None = None
    accepted_at: float | None = None
    finished_at: float | None = None

    def changed(self, **fields: Any) -> Attempt:
        return replace(self, **fields)


def _task(row: Any) -> Task:
    fields = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for it
    fields["state"] = TaskState(fields["state"])
    fields["spec"] = TaskCreate.decode(fields["spec"])
    return Task(**fields)


def _attempt(row: Any) -> Attempt:
    fields = dict(row._mapping)  # noqa: SLF001
    fields["state"] = AttemptState(fields["state"])
    return Attempt(**fields)


def _row(entry: Task | Attempt) -> dict[str, Any]:
    fields = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    if isinstance(entry, Task):
        fields["spec"] = entry.spec.model_dump_json(exclude_none=True)
        fields["state"] = int(entry.state)
    else:
        fields["state"] = str(entry.state)
    return fields


# Built once: SQLAlchemy then finds their compiled form by identity.
_ADD_TASK, _ADD_ATTEMPT = insert(tasks), insert(attempts)
_TASK = select(tasks).where(tasks.c.id == bindparam("task"))
_TASK_BY_KEY = select(tasks).where(tasks.c.idempotency_key == bindparam("key"))
_SAVE_TASK = update(tasks).where(tasks.c.id == bindparam("task"))
_THIS_ATTEMPT = (attempts.c.task_id == bindparam("task")) & (attempts.c.number == bindparam("attempt"))
_ATTEMPT = select(attempts).where(_THIS_ATTEMPT)
_SAVE_ATTEMPT = update(attempts).where(_THIS_ATTEMPT)


def add_task(db: Connection, task: Task) -> None:
    db.execute(_ADD_TASK, _row(task))


def save_task(db: Connection, task: Task) -> None:
    fields = _row(task)
    del fields["spec"], fields["id"], fields["created_at"]
    db.execute(_SAVE_TASK, {**fields, "task": task.id})


def get_task(db: Connection, task_id: str) -> Task | None:
    row = db.execute(_TASK, {"task": task_id}).first()
    return None if row is None else _task(row)


def task_by_key(db: Connection, key: str) -> Task | None:
    row = db.execute(_TASK_BY_KEY, {"key": key}).first()
    return None if row is None else _task(row)


def list_tasks(db: Connection, offset: int, limit: int) -> tuple[int, list[Task]]:
    """The total, and one page, newest first."""
    total = db.execute(select(func.count()).select_from(tasks)).scalar_one()
    rows = db.execute(select(tasks).order_by(tasks.c.created_at.desc(), tasks.c.id).offset(offset).limit(limit))
    return total, [_task(row) for row in rows]


def add_attempt(db: Connection, attempt: Attempt) -> None:
    db.execute(_ADD_ATTEMPT, _row(attempt))


def save_attempt(db: Connection, attempt: Attempt) -> None:
    fields = _row(attempt)
    del fields["task_id"], fields["number"]
    db.execute(_SAVE_ATTEMPT, {**fields, "task": attempt.task_id, "attempt": attempt.number})


def get_attempt(db: Connection, task_id: str, number: int) -> Attempt | None:
    row = db.execute(_ATTEMPT, {"task": task_id, "attempt": number}).first()
    return None if row is None else _attempt(row)


def attempts_of(db: Connection, task_id: str) -> list[Attempt]:
    rows = db.execute(select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.number))
    return [_attempt(row) for row in rows]


def open_attempts(db: Connection) -> list[Attempt]:
    states = [str(state) for state in AttemptState if not state.ended]
    rows = db.execute(select(attempts).where(attempts.c.state.in_(states)))
    return [_attempt(row) for row in rows]


def ended_since(db: Connection, since: float) -> list[Task]:
    """Oldest first."""
    rows = db.execute(select(tasks).where(tasks.c.finished_at >= since).order_by(tasks.c.finished_at))
    return [_task(row) for row in rows]


def save_proplet(db: Connection, proplet_id: str, description: dict[str, Any], now: float) -> None:
    text = json.dumps(description)
    known = db.execute(update(proplets).where(proplets.c.id == proplet_id).values(description=text, last_seen=now))
    if known.rowcount == 0:
        db.execute(insert(proplets).values(id=proplet_id, description=text, last_seen=now))


def all_proplets(db: Connection) -> Sequence[tuple[str, dict[str, Any], float]]:
    """``(id, description, last seen)`` of every proplet that ever registered."""
    rows = db.execute(select(proplets.c.id, proplets.c.description, proplets.c.last_seen))
    return [(row.id, json.loads(row.description), row.last_seen) for row in rows]
