"""The manager's tables, and the few questions and changes that its rooms need. Every function takes an open transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.states import AttemptState, TaskState
from swashplate.messages import TaskCreate

SCHEMA_VERSION = 1
metadata = MetaData()

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
    Column("first_seen", Float, nullable=False),
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


async def add_task(db: AsyncConnection, task: Task) -> None:
    await db.execute(insert(tasks).values(_row(task)))


async def save_task(db: AsyncConnection, task: Task) -> None:
    fields = _row(task)
    del fields["spec"], fields["id"], fields["created_at"]
    await db.execute(update(tasks).where(tasks.c.id == task.id).values(fields))


async def get_task(db: AsyncConnection, task_id: str) -> Task | None:
    row = (await db.execute(select(tasks).where(tasks.c.id == task_id))).first()
    return None if row is None else _task(row)


async def task_by_key(db: AsyncConnection, key: str) -> Task | None:
    row = (await db.execute(select(tasks).where(tasks.c.idempotency_key == key))).first()
    return None if row is None else _task(row)


async def list_tasks(db: AsyncConnection, offset: int, limit: int) -> tuple[int, list[Task]]:
    """The total, and one page, newest first."""
    total = (await db.execute(select(func.count()).select_from(tasks))).scalar_one()
    rows = await db.execute(select(tasks).order_by(tasks.c.created_at.desc(), tasks.c.id).offset(offset).limit(limit))
    return total, [_task(row) for row in rows]


async def add_attempt(db: AsyncConnection, attempt: Attempt) -> None:
    await db.execute(insert(attempts).values(_row(attempt)))


async def save_attempt(db: AsyncConnection, attempt: Attempt) -> None:
    fields = _row(attempt)
    where = (attempts.c.task_id == attempt.task_id) & (attempts.c.number == attempt.number)
    await db.execute(update(attempts).where(where).values(fields))


async def get_attempt(db: AsyncConnection, task_id: str, number: int) -> Attempt | None:
    where = (attempts.c.task_id == task_id) & (attempts.c.number == number)
    row = (await db.execute(select(attempts).where(where))).first()
    return None if row is None else _attempt(row)


async def attempts_of(db: AsyncConnection, task_id: str) -> list[Attempt]:
    rows = await db.execute(select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.number))
    return [_attempt(row) for row in rows]


async def open_attempts(db: AsyncConnection) -> list[Attempt]:
    states = [str(state) for state in AttemptState if not state.ended]
    rows = await db.execute(select(attempts).where(attempts.c.state.in_(states)))
    return [_attempt(row) for row in rows]


async def save_proplet(db: AsyncConnection, proplet_id: str, description: dict[str, Any], now: float) -> None:
    text = json.dumps(description)
    known = await db.execute(
        update(proplets).where(proplets.c.id == proplet_id).values(description=text, last_seen=now)
    )
    if known.rowcount == 0:
        await db.execute(insert(proplets).values(id=proplet_id, description=text, first_seen=now, last_seen=now))


async def all_proplets(db: AsyncConnection) -> Sequence[tuple[str, dict[str, Any], float]]:
    """``(id, description, last seen)`` of every proplet that ever registered."""
    rows = await db.execute(select(proplets.c.id, proplets.c.description, proplets.c.last_seen))
    return [(row.id, json.loads(row.description), row.last_seen) for row in rows]
