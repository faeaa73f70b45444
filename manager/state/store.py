"""What is written to the manager's tables, in bulk, and the questions that are asked of them.

Every function takes an open transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Table, bindparam, case, delete, func, select

from manager.state import catalogue, sample_store, task_rows
from manager.state.records import Attempt, AttemptKey, Group, GroupState, Invocation, Record, Task, Untold
from manager.state.states import AttemptState, TaskState
from manager.state.tables import attempts, groups, invocations, proplets, tasks, untold
from swashplate.database import octet_length, replacing
from swashplate.messages import TaskCreate

MOST_LISTED_RESULT = 16 * 1024
"""Bytes of a result in a list of tasks; a hundred of the longest are a body of 1.6 MB."""
LEFT_OUT = ""
"""In a list, in the place of a result that is longer; no JSON is empty."""
_ACTIVE = [int(TaskState.SCHEDULED), int(TaskState.RUNNING)]


# Records and rows.


def _values(table: Table, **paths: str) -> Callable[[Any], tuple[Any, ...]]:
    """What makes a row of a record: its fields in the order of the table's columns, or what lies at ``paths``."""
    found = attrgetter(*(paths.get(column.name, column.name) for column in table.columns))
    return found if len(table.columns) > 1 else lambda record: (found(record),)


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


_STATE = {"state": "state.value"}
_ROWS: dict[type[Any], tuple[Table, Callable[[Any], tuple[Any, ...]]]] = {
    Task: (tasks, task_rows.row_of),
    Attempt: (attempts, _values(attempts, **_STATE)),
    Group: (groups, _values(groups, **_STATE)),
    Invocation: (invocations, _values(invocations, **_STATE)),
    Untold: (untold, _values(untold)),
}
_PROPLETS = replacing(proplets)
_REPLACING = {kind: replacing(table) for kind, (table, _) in _ROWS.items() if kind is not Task}


def row_of(record: Record) -> tuple[Table, dict[str, Any]]:
    """The table that a record is kept in, and its row there."""
    table, values = _ROWS[type(record)]
    return table, dict(zip(table.columns.keys(), values(record), strict=True))


def _storable(record: Record) -> Record:
    """A guest may put NUL into its error; PostgreSQL would refuse it, and the whole batch with it, for ever."""
    if isinstance(record, Task | Attempt | Invocation) and record.error and "\0" in record.error:
        return record.changed(error=record.error.replace("\0", "\N{REPLACEMENT CHARACTER}"))
    return record


_LISTED = select(
    *(column for column in tasks.c if column is not tasks.c.result),
    case((octet_length(tasks.c.result) > MOST_LISTED_RESULT, LEFT_OUT), else_=tasks.c.result).label("result"),
)
_TASK = select(tasks).where(tasks.c.id == bindparam("wanted"))
_TASK_BY_KEY = select(tasks).where(tasks.c.idempotency_key == bindparam("wanted"))
_LAST_SEQ = select(func.coalesce(func.max(tasks.c.seq), 0))
_ACTIVE_TASKS = select(tasks).where(tasks.c.state.in_(_ACTIVE))
_ENDED_LEARNING = (
    select(tasks)
    .where(
        ((tasks.c.finished_at >= bindparam("since")) & tasks.c.spec_text.contains('"kind":"federated"'))
        | (tasks.c.id.in_(select(untold.c.task_id)) & tasks.c.state.not_in(_ACTIVE))
    )
    .order_by(tasks.c.finished_at)
)
_ATTEMPTS = select(attempts).where(attempts.c.task_id == bindparam("wanted")).order_by(attempts.c.number)
_ATTEMPT = select(attempts).where(attempts.c.task_id == bindparam("wanted"), attempts.c.number == bindparam("attempt"))
_ACTIVE_ATTEMPTS = (
    select(attempts)
    .join(tasks, (tasks.c.id == attempts.c.task_id) & (tasks.c.run == attempts.c.run))
    .where(tasks.c.state.in_(_ACTIVE))
)
_ACTIVE_GROUPS = select(groups).where(groups.c.state == int(GroupState.RUNNING))
_TASKS_OF_ACTIVE_GROUPS = (
    select(tasks).join(groups, groups.c.id == tasks.c.group_id).where(groups.c.state == int(GroupState.RUNNING))
)
_ALL_PROPLETS = select(proplets.c.id, proplets.c.description, proplets.c.last_seen)


def write(db: Connection, records: Sequence[Record], erased: Mapping[type[Any], Sequence[str]]) -> None:
    """Insert or replace all of these, with a statement or two per table; delete the tasks and groups with the ids ``erased``."""
    kinds: dict[type[Any], list[Any]] = {}
    for record in records:
        kinds.setdefault(type(record), []).append(_storable(record))
    written, gone = kinds.pop(Task, []), erased.get(Task, ())
    listed = catalogue.Changes(db)
    if written:
        before = task_rows.known(db, [task.id for task in written])
        listed.put(written, before)
        task_rows.write(db, written, before)
    if gone:
        listed.drop(task_rows.known(db, gone).values())
    listed.write()
    for kind, found in kinds.items():
        _REPLACING[kind].execute(db, list(map(_ROWS[kind][1], found)))
    for ids in catalogue.chunks(gone):
        db.execute(delete(attempts).where(attempts.c.task_id.in_(ids)))
        db.execute(delete(invocations).where(invocations.c.task_id.in_(ids)))
        sample_store.erase(db, map(sample_store.task_subject, ids))
        db.execute(delete(untold).where(untold.c.task_id.in_(ids)))
        db.execute(delete(tasks).where(tasks.c.id.in_(ids)))
    for ids in catalogue.chunks(erased.get(Untold, ())):
        db.execute(delete(untold).where(untold.c.task_id.in_(ids)))
    for group_id in erased.get(Group, ()):
        db.execute(delete(groups).where(groups.c.id == group_id))


# Tasks and attempts.


def get_task(db: Connection, task_id: str) -> Task | None:
    row = db.execute(_TASK, {"wanted": task_id}).first()
    return None if row is None else _task(row)


def tasks_with(db: Connection, ids: Iterable[str]) -> list[Task]:
    return [_task(row) for row in db.execute(select(tasks).where(tasks.c.id.in_(list(ids))))]


def task_by_key(db: Connection, key: str) -> Task | None:
    row = db.execute(_TASK_BY_KEY, {"wanted": key}).first()
    return None if row is None else _task(row)


def last_seq(db: Connection) -> int:
    return int(db.execute(_LAST_SEQ).scalar_one())


def active_tasks(db: Connection) -> list[Task]:
    return [_task(row) for row in db.execute(_ACTIVE_TASKS)]


def scheduled_tasks(db: Connection) -> list[tuple[str, float]]:
    """Id and next run of every task that is to run at a certain time."""
    rows = db.execute(select(tasks.c.id, tasks.c.next_run).where(tasks.c.next_run > 0))
    return [(row.id, row.next_run) for row in rows]


def list_tasks(
    db: Connection, offset: int, limit: int, filters: Mapping[str, Any] | None = None
) -> tuple[int, list[Task]]:
    """The total, and one page, newest first, without the longest results; ``filters``: the fields of ``catalogue.Filter``."""
    total, page = catalogue.find(db, catalogue.Filter(**(filters or {})), offset, limit)
    rows = db.execute(_LISTED.where(tasks.c.seq.in_(page)).order_by(tasks.c.seq.desc()))
    return total, [_task(row) for row in rows]


def existing_tasks(db: Connection, ids: Iterable[str]) -> set[str]:
    """Those of these ids that some task has."""
    found: set[str] = set()
    for chunk in catalogue.chunks(ids):
        found.update(db.execute(select(tasks.c.id).where(tasks.c.id.in_(chunk))).scalars())
    return found


def is_used(db: Connection, digest: str) -> bool:
    """Does any task have this binary?"""
    return db.execute(select(tasks.c.id).where(tasks.c.digest == digest).limit(1)).first() is not None


def used_among(db: Connection, digests: Iterable[str]) -> set[str]:
    """Those of these that are some task's binary."""
    found: set[str] = set()
    for chunk in catalogue.chunks(digests):
        found.update(db.execute(select(tasks.c.digest).where(tasks.c.digest.in_(chunk)).distinct()).scalars())
    return found


def get_attempt(db: Connection, key: AttemptKey) -> Attempt | None:
    row = db.execute(_ATTEMPT, {"wanted": key.task_id, "attempt": key.number}).first()
    return None if row is None else _attempt(row)


def attempts_of(db: Connection, task_id: str) -> list[Attempt]:
    rows = db.execute(_ATTEMPTS, {"wanted": task_id})
    return [_attempt(row) for row in rows]


def attempts_of_active(db: Connection) -> list[Attempt]:
    """Every attempt of the present run of a task that has not ended."""
    return [_attempt(row) for row in db.execute(_ACTIVE_ATTEMPTS)]


def learning_ended_since(db: Connection, since: float) -> list[Task]:
    """Those of rounds, oldest first, and all whose end was never told. Of all there may be hundreds of thousands, and nobody else asks."""
    rows = db.execute(_ENDED_LEARNING, {"since": since})
    return [_task(row) for row in rows]


# Jobs and workflows.


def get_group(db: Connection, group_id: str) -> Group | None:
    row = db.execute(select(groups).where(groups.c.id == group_id)).first()
    return None if row is None else _group(row)


def active_groups(db: Connection) -> list[Group]:
    return [_group(row) for row in db.execute(_ACTIVE_GROUPS)]


def tasks_of_active_groups(db: Connection) -> list[Task]:
    return [_task(row) for row in db.execute(_TASKS_OF_ACTIVE_GROUPS)]


def tasks_of_group(db: Connection, group_id: str) -> list[Task]:
    """In the order in which they were given."""
    wanted = select(tasks).where(tasks.c.group_id == group_id).order_by(tasks.c.position)
    return [_task(row) for row in db.execute(wanted)]


def tasks_listed(db: Connection, group_ids: Iterable[str]) -> list[Task]:
    """Of these groups, in the order in which they were given, without the longest results."""
    wanted = _LISTED.where(tasks.c.group_id.in_(list(group_ids))).order_by(tasks.c.group_id, tasks.c.position)
    return [_task(row) for row in db.execute(wanted)]


def states_of_groups(db: Connection, group_ids: Iterable[str]) -> dict[str, dict[TaskState, int]]:
    """How many tasks of each state they have."""
    counted = catalogue.counts_of(db, {(catalogue.GROUP, group_id) for group_id in group_ids})
    return {group_id: {TaskState(state): n for state, n in states.items()} for (_, group_id), states in counted.items()}


def list_groups(
    db: Connection, kind: str, offset: int, limit: int, state: GroupState | None = None
) -> tuple[int, list[Group]]:
    """The total, and one page, newest first."""
    wanted = [groups.c.kind == kind] + ([groups.c.state == int(state)] if state is not None else [])
    total = db.execute(select(func.count()).select_from(groups).where(*wanted)).scalar_one()
    page = select(groups).where(*wanted).order_by(groups.c.created_at.desc(), groups.c.id)
    return total, [_group(row) for row in db.execute(page.offset(offset).limit(limit))]


# Proplets.


def save_proplets(db: Connection, found: Iterable[tuple[str, dict[str, Any], float]]) -> None:
    """``(id, description, last seen)`` of each."""
    _PROPLETS.execute(db, [(each, json.dumps(described), seen) for each, described, seen in found])


def delete_proplet(db: Connection, proplet_id: str) -> None:
    db.execute(delete(proplets).where(proplets.c.id == proplet_id))
    sample_store.erase(db, [sample_store.proplet_subject(proplet_id)])


def all_proplets(db: Connection) -> Sequence[tuple[str, dict[str, Any], float]]:
    """``(id, description, last seen)`` of every proplet that ever registered."""
    rows = db.execute(_ALL_PROPLETS)
    return [(row.id, json.loads(row.description), row.last_seen) for row in rows]
