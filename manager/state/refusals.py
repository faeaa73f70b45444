"""What of a batch the database will never store, whatever is tried, so that nothing else has to wait for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from manager.state import store
from manager.state.records import Attempt, Erased, Group, Invocation, Record, Task
from swashplate.database import is_refusal, reason_of, refused_column
from swashplate.errors import InvalidRequestError

NOT_STORABLE = "not_storable"
"""The code of whatever ended because the database will not store it."""

Key = tuple[type[Any], Any]
"""The kind of a record, and its key."""
Records = Mapping[Key, Record | Erased]


class NotStorableError(InvalidRequestError):
    """The database will never take what was to be written; nothing of it was."""

    default_code = NOT_STORABLE


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that was refused, and why. ``before`` is the task as the database has it."""

    key: Key
    record: Record | Erased
    reason: str
    before: Task | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Records that belong together, of which nothing was written, and which of them are at fault.

    ``new``: the database has no task and no group of them. ``ids`` are those of what will not be as it was put.
    """

    records: Records
    faults: Sequence[Fault]
    new: bool
    ids: frozenset[str]

    def sentence(self) -> str:
        return "; ".join(fault.reason for fault in self.faults[:3])


def write(db: Connection, records: Records) -> None:
    erased: dict[type[Any], list[str]] = {}
    for (kind, key), record in records.items():
        if isinstance(record, Erased):
            erased.setdefault(kind, []).append(key)
    store.write(db, [each for each in records.values() if not isinstance(each, Erased)], erased)


def units(records: Records) -> list[Records]:
    """What may be written by itself: a job or workflow with all that belongs to it, or a task with its attempts and calls."""
    groups = {record.id: record.group_id for record in records.values() if isinstance(record, Task)}
    found: dict[str, dict[Key, Record | Erased]] = {}
    for key, record in records.items():
        root = record.task_id if isinstance(record, Attempt | Invocation) else key[1]
        found.setdefault(groups.get(root) or root, {})[key] = record
    return list(found.values())


def examined(db: Connection, records: Records, reason: str) -> Refusal:
    """Why these cannot be written together, though nobody else is in their way; writes nothing."""
    with db.begin_nested() as tried:
        found = [fault for fault in (_tried(db, key, record) for key, record in records.items()) if fault is not None]
        tried.rollback()
    if not found:
        return blamed(records, reason)
    return _refusal(records, found, new=_are_new(db, records))


def blamed(records: Records, reason: str) -> Refusal:
    """When not even that can be found out which of them it is: all."""
    return _refusal(records, [Fault(key, record, reason) for key, record in records.items()], new=False)


def _refusal(records: Records, faults: Sequence[Fault], *, new: bool) -> Refusal:
    gone = records if new else {fault.key: fault.record for fault in faults}
    return Refusal(records, faults, new, frozenset(map(_id_of, gone.items())))


def _tried(db: Connection, key: Key, record: Record | Erased) -> Fault | None:
    """One after the other, so that of two that exclude each other the first is good."""
    before = _before(db, key)
    try:
        with db.begin_nested():
            write(db, {key: record})
    except Exception as error:
        if not is_refusal(error):
            raise
        return Fault(key, record, _reason(key, record, error), before)
    return None


def _reason(key: Key, record: Record | Erased, error: Exception) -> str:
    column = None if isinstance(record, Erased) else refused_column(*store.row_of(record))
    what = f"{key[0].__name__.lower()} {key[1] if isinstance(key[1], str) else ' attempt '.join(map(str, key[1]))}"
    where = f"field {column} of {what}" if column else what
    return f"the database cannot store {where}: {reason_of(error)}"


def _before(db: Connection, key: Key) -> Task | None:
    return store.get_task(db, key[1]) if key[0] is Task else None


def _are_new(db: Connection, records: Records) -> bool:
    roots = [(kind, key) for (kind, key), record in records.items() if isinstance(record, Task | Group)]
    return bool(roots) and not any(
        store.get_task(db, key) if kind is Task else store.get_group(db, key) for kind, key in roots
    )


def _id_of(entry: tuple[Key, Record | Erased]) -> str:
    (_, key), record = entry
    return record.task_id if isinstance(record, Attempt) else str(key)
