"""The manager's tables: what is written in bulk, and the questions that are asked of them.

Every function takes an open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
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
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from manager.records import Attempt, AttemptKey, Group, GroupState, Record, Task
from manager.states import AttemptState, TaskState
from swashplate.database import Schema
from swashplate.messages import TaskCreate

metadata = MetaData()
SCHEMA = Schema("manager", metadata, "manager.migrations")

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("spec_text", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("run", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("digest", String),
    Column("size", Integer),
    Column("proplet_id", String),
    Column("group_id", String),
    Column("position", Integer, nullable=False),
    Column("idempotency_key", String, unique=True),
    Column("fingerprint", LargeBinary),
    Column("next_run", Float),
    Column("stopping", Boolean, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
    Column("started_at", Float),
    Column("finished_at", Float),
)
Index("tasks_by_state", tasks.c.state, tasks.c.seq)
Index("tasks_by_group", tasks.c.group_id)
Index("tasks_by_next_run", tasks.c.next_run)
Index("tasks_by_end", tasks.c.finished_at)

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("target", String),
    Column("proplet_id", String),
    Column("retry", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("deadline", Float),
    Column("offered_at", Float),
    Column("accepted_at", Float),
    Column("stop_at", Float),
    Column("finished_at", Float),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
)

groups = Table(
    "groups",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("state", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
)
Index("groups_by_age", groups.c.kind, groups.c.created_at)

proplets = Table(
    "proplets",
    metadata,
    Column("id", String, primary_key=True),
    Column("description", Text, nullable=False),
    Column("last_seen", Float, nullable=False),
)

_ACTIVE = [int(TaskState.SCHEDULED), int(TaskState.RUNNING)]


# Records and rows.


def _plain(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _task_row(task: Task) -> dict[str, Any]:
    row = _plain(task)
    del row["spec"]
    return {**row, "name": task.spec.name, "state": int(task.state)}


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {**_plain(attempt), "state": str(attempt.state)}


def _group_row(group: Group) -> dict[str, Any]:
    return {**_plain(group), "state": int(group.state)}


def _task(row: Any) -> Task:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for it
    del values["name"]
    values["spec"] = TaskCreate.decode(values["spec_text"])
    values["state"] = TaskState(values["state"])
    return Task(**values)


def _attempt(row: Any) -> Attempt:
    return Attempt(**{**row._mapping, "state": AttemptState(row.state)})  # noqa: SLF001


def _group(row: Any) -> Group:
    return Group(**{**row._mapping, "state": GroupState(row.state)})  # noqa: SLF001


def _upsert(table: Table, dialect: str) -> Any:
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = make(table)
    keys = [column.name for column in table.primary_key]
    rest = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=rest)


_TABLES: dict[type[Any], tuple[Table, Any]] = {
    Task: (tasks, _task_row),
    Attempt: (attempts, _attempt_row),
    Group: (groups, _group_row),
}
# Built once: SQLAlchemy then finds their compiled form by identity.
_UPSERTS = {
    (kind, dialect): _upsert(table, dialect)
    for kind, (table, _) in _TABLES.items()
    for dialect in ("sqlite", "postgresql")
}


def write(db: Connection, records: Iterable[Record], erased: Mapping[type[Any], Sequence[str]]) -> None:
    """Insert or replace all of these, with one statement per table; delete the tasks and groups with the ids ``erased``."""
    rows: dict[type[Any], list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault(type(record), []).append(_TABLES[type(record)][1](record))
    for kind, values in rows.items():
        db.execute(_UPSERTS[kind, db.dialect.name], values)
    for task_id in erased.get(Task, ()):
        db.execute(delete(attempts).where(attempts.c.task_id == task_id))
        db.execute(delete(tasks).where(tasks.c.id == task_id))
    for group_id in erased.get(Group, ()):
        db.execute(delete(groups).where(groups.c.id == group_id))


# Tasks and attempts.


def get_task(db: Connection, task_id: str) -> Task | None:
    row = db.execute(select(tasks).where(tasks.c.id == task_id)).first()
    return None if row is None else _task(row)


def tasks_with(db: Connection, ids: Iterable[str]) -> list[Task]:
    return [_task(row) for row in db.execute(select(tasks).where(tasks.c.id.in_(list(ids))))]


def task_by_key(db: Connection, key: str) -> Task | None:
    row = db.execute(select(tasks).where(tasks.c.idempotency_key == key)).first()
    return None if row is None else _task(row)


def last_seq(db: Connection) -> int:
    return int(db.execute(select(func.coalesce(func.max(tasks.c.seq), 0))).scalar_one())


def active_tasks(db: Connection) -> list[Task]:
    return [_task(row) for row in db.execute(select(tasks).where(tasks.c.state.in_(_ACTIVE)))]


def scheduled_tasks(db: Connection) -> list[tuple[str, float]]:
    """Id and next run of every task that is to run at a certain time."""
    rows = db.execute(select(tasks.c.id, tasks.c.next_run).where(tasks.c.next_run.is_not(None)))
    return [(row.id, row.next_run) for row in rows]


def list_tasks(
    db: Connection, offset: int, limit: int, filters: Mapping[str, Any] | None = None
) -> tuple[int, list[Task]]:
    """The total, and one page, newest first; ``filters``: column → value."""
    wanted = [tasks.c[column] == value for column, value in (filters or {}).items()]
    total = db.execute(select(func.count()).select_from(tasks).where(*wanted)).scalar_one()
    page = select(tasks).where(*wanted).order_by(tasks.c.seq.desc())
    return total, [_task(row) for row in db.execute(page.offset(offset).limit(limit))]


def uses_of(db: Connection, digest: str) -> int:
    """How many tasks have this binary."""
    return int(db.execute(select(func.count()).select_from(tasks).where(tasks.c.digest == digest)).scalar_one())


def get_attempt(db: Connection, key: AttemptKey) -> Attempt | None:
    wanted = (attempts.c.task_id == key.task_id) & (attempts.c.number == key.number)
    row = db.execute(select(attempts).where(wanted)).first()
    return None if row is None else _attempt(row)


def attempts_of(db: Connection, task_id: str) -> list[Attempt]:
    rows = db.execute(select(attempts).where(attempts.c.task_id == task_id).order_by(attempts.c.number))
    return [_attempt(row) for row in rows]


def attempts_of_active(db: Connection) -> list[Attempt]:
    """Every attempt of the present run of a task that has not ended."""
    joined = select(attempts).join(tasks, (tasks.c.id == attempts.c.task_id) & (tasks.c.run == attempts.c.run))
    return [_attempt(row) for row in db.execute(joined.where(tasks.c.state.in_(_ACTIVE)))]


def ended_since(db: Connection, since: float) -> list[Task]:
    """Oldest first."""
    rows = db.execute(select(tasks).where(tasks.c.finished_at >= since).order_by(tasks.c.finished_at))
    return [_task(row) for row in rows]


# Jobs and workflows.


def get_group(db: Connection, group_id: str) -> Group | None:
    row = db.execute(select(groups).where(groups.c.id == group_id)).first()
    return None if row is None else _group(row)


def active_groups(db: Connection) -> list[Group]:
    return [_group(row) for row in db.execute(select(groups).where(groups.c.state == int(GroupState.RUNNING)))]


def tasks_of_groups(db: Connection, ids: Iterable[str]) -> list[Task]:
    """In the order in which they were given."""
    wanted = select(tasks).where(tasks.c.group_id.in_(list(ids))).order_by(tasks.c.group_id, tasks.c.position)
    return [_task(row) for row in db.execute(wanted)]


def list_groups(
    db: Connection, kind: str, offset: int, limit: int, state: GroupState | None = None
) -> tuple[int, list[Group]]:
    """The total, and one page, newest first."""
    wanted = [groups.c.kind == kind] + ([groups.c.state == int(state)] if state is not None else [])
    total = db.execute(select(func.count()).select_from(groups).where(*wanted)).scalar_one()
    page = select(groups).where(*wanted).order_by(groups.c.created_at.desc(), groups.c.id)
    return total, [_group(row) for row in db.execute(page.offset(offset).limit(limit))]


# Proplets.


def save_proplet(db: Connection, proplet_id: str, description: dict[str, Any], now: float) -> None:
    text = json.dumps(description)
    known = db.execute(update(proplets).where(proplets.c.id == proplet_id).values(description=text, last_seen=now))
    if known.rowcount == 0:
        db.execute(insert(proplets).values(id=proplet_id, description=text, last_seen=now))


def delete_proplet(db: Connection, proplet_id: str) -> None:
    db.execute(delete(proplets).where(proplets.c.id == proplet_id))


def all_proplets(db: Connection) -> Sequence[tuple[str, dict[str, Any], float]]:
    """``(id, description, last seen)`` of every proplet that ever registered."""
    rows = db.execute(select(proplets.c.id, proplets.c.description, proplets.c.last_seen))
    return [(row.id, json.loads(row.description), row.last_seen) for row in rows]
