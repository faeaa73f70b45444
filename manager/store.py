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

from manager.records import Attempt, AttemptKey, Group, GroupState, Invocation, Record, Task
from manager.states import AttemptState, InvocationState, TaskState
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

invocations = Table(
    "invocations",
    metadata,
    Column("id", String, primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("task_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("call", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("deadline", Float, nullable=False),
    Column("number", Integer),
    Column("proplet_id", String),
    Column("retry", Integer, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
)
Index("invocations_by_task", invocations.c.task_id, invocations.c.seq)
Index("invocations_by_state", invocations.c.state)

# What was measured: per subject a ring of rows, the newest over the oldest.
samples = Table(
    "samples",
    metadata,
    Column("subject", String, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("sample", Text, nullable=False),
)

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


def _invocation_row(invocation: Invocation) -> dict[str, Any]:
    return {**_plain(invocation), "state": str(invocation.state)}


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


def _invocation(row: Any) -> Invocation:
    return Invocation(**{**row._mapping, "state": InvocationState(row.state)})  # noqa: SLF001


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
    Invocation: (invocations, _invocation_row),
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
        db.execute(delete(invocations).where(invocations.c.task_id == task_id))
        db.execute(delete(samples).where(samples.c.subject == task_subject(task_id)))
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


# Invocations of latent tasks.

_ENDED_INVOCATION = [str(state) for state in InvocationState if state.ended]
_OPEN_INVOCATION = [str(state) for state in InvocationState if not state.ended]


def last_invocation_seq(db: Connection) -> int:
    return int(db.execute(select(func.coalesce(func.max(invocations.c.seq), 0))).scalar_one())


def open_invocations(db: Connection) -> list[Invocation]:
    rows = db.execute(select(invocations).where(invocations.c.state.in_(_OPEN_INVOCATION)))
    return [_invocation(row) for row in rows]


def get_invocation(db: Connection, task_id: str, invocation_id: str) -> Invocation | None:
    wanted = (invocations.c.id == invocation_id) & (invocations.c.task_id == task_id)
    row = db.execute(select(invocations).where(wanted)).first()
    return None if row is None else _invocation(row)


def list_invocations(db: Connection, task_id: str, offset: int, limit: int) -> tuple[int, list[Invocation]]:
    """The total, and one page, newest first."""
    wanted = invocations.c.task_id == task_id
    total = db.execute(select(func.count()).select_from(invocations).where(wanted)).scalar_one()
    page = select(invocations).where(wanted).order_by(invocations.c.seq.desc())
    return total, [_invocation(row) for row in db.execute(page.offset(offset).limit(limit))]


def prune_invocations(db: Connection, task_id: str, keep: int) -> None:
    """Delete the ended ones of a task that are older than its newest ``keep``."""
    of_task = invocations.c.task_id == task_id
    newest = select(invocations.c.seq).where(of_task).order_by(invocations.c.seq.desc())
    oldest_kept = db.execute(newest.offset(keep).limit(1)).scalar()
    if oldest_kept is not None:
        ended = invocations.c.state.in_(_ENDED_INVOCATION)
        db.execute(delete(invocations).where(of_task & ended & (invocations.c.seq <= oldest_kept)))


# What was measured.


def task_subject(task_id: str) -> str:
    return f"task {task_id}"


def proplet_subject(proplet_id: str) -> str:
    return f"proplet {proplet_id}"


_SAMPLES = {dialect: _upsert(samples, dialect) for dialect in ("sqlite", "postgresql")}


def last_sample(db: Connection, subject: str) -> int:
    """The number of the newest one, counted from 1; 0 when there is none."""
    wanted = select(func.coalesce(func.max(samples.c.number), 0)).where(samples.c.subject == subject)
    return int(db.execute(wanted).scalar_one())


def save_samples(db: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    db.execute(_SAMPLES[db.dialect.name], rows)


def list_samples(db: Connection, subject: str, most: int) -> list[str]:
    """The newest ``most`` ones, newest first."""
    wanted = select(samples.c.sample).where(samples.c.subject == subject).order_by(samples.c.number.desc())
    return [row.sample for row in db.execute(wanted.limit(most))]


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
    db.execute(delete(samples).where(samples.c.subject == proplet_subject(proplet_id)))


def all_proplets(db: Connection) -> Sequence[tuple[str, dict[str, Any], float]]:
    """``(id, description, last seen)`` of every proplet that ever registered."""
    rows = db.execute(select(proplets.c.id, proplets.c.description, proplets.c.last_seen))
    return [(row.id, json.loads(row.description), row.last_seen) for row in rows]
