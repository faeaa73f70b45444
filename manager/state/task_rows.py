"""How tasks are written: what is new as a row, and of a row that is there, where that is enough, only what a run changes.

The table has an index for each way in which tasks are found. A run changes one of them; a row that is written whole is
taken out of all of them and put back, and the commit carries their pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from manager.state.catalogue import chunks
from manager.state.records import Task
from manager.state.tables import tasks
from swashplate.database import Bulk, replacing

Row = tuple[Any, ...]
Known = Mapping[str, Any]
"""Rows of ``tasks`` by id, without what only runs change but for the state."""

_OF_A_RUN = (
    "state",
    "updated_at",
    "run",
    "attempt",
    "proplet_id",
    "stopping",
    "result",
    "error",
    "code",
    "started_at",
    "finished_at",
)
_COLUMNS = [column.name for column in tasks.columns]
_KEPT = [name for name in _COLUMNS if name not in _OF_A_RUN]
_PATHS = {"name": "spec.name", "state": "state.value"}


def _getter(names: Iterable[str]) -> attrgetter[Any]:
    return attrgetter(*(_PATHS.get(name, name) for name in names))


_whole, _kept, _of_a_run = _getter(_COLUMNS), _getter(_KEPT), _getter((*_OF_A_RUN, "id"))
_WHOLE = replacing(tasks)
_RUN = Bulk(
    [*_OF_A_RUN, "wanted"],
    lambda _: (
        update(tasks).where(tasks.c.id == bindparam("wanted")).values({name: bindparam(name) for name in _OF_A_RUN})
    ),
)
_FOUND = select(tasks.c.state, *(tasks.c[name] for name in _KEPT))
_FOUND_MANY = _FOUND.where(tasks.c.id.in_(bindparam("ids", expanding=True)))
_FOUND_ONE = _FOUND.where(tasks.c.id == bindparam("wanted"))


def row_of(task: Task) -> Row:
    """Its values in the order of the table's columns."""
    return tuple(_whole(task))


def known(db: Connection, ids: Sequence[str]) -> Known:
    """Those of these tasks that are there."""
    if len(ids) == 1:  # a list costs three times as much
        rows = db.execute(_FOUND_ONE, {"wanted": ids[0]})
        return {row.id: row for row in rows}
    return {row.id: row for chunk in chunks(ids) for row in db.execute(_FOUND_MANY, {"ids": chunk})}


def write(db: Connection, written: Iterable[Task], before: Known) -> None:
    """``before`` are those of them that are there, as they are now."""
    whole, run = [], []
    for task in written:
        there = before.get(task.id)
        if there is not None and there[1:] == _kept(task):
            run.append(_of_a_run(task))
        else:
            whole.append(_whole(task))
    _WHOLE.execute(db, whole)
    _RUN.execute(db, run)
