"""The questions that are asked of the table of invocations. Every function takes an open transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, select

from manager.state.records import Invocation
from manager.state.states import InvocationState
from manager.state.tables import invocations

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
    """The total, and one page, newest first, without reports."""
    wanted = invocations.c.task_id == task_id
    total = db.execute(select(func.count()).select_from(invocations).where(wanted)).scalar_one()
    listed = [column for column in invocations.c if column is not invocations.c.report]
    page = select(*listed).where(wanted).order_by(invocations.c.seq.desc())
    return total, [_invocation(row) for row in db.execute(page.offset(offset).limit(limit))]


def prune_invocations(db: Connection, task_id: str, keep: int) -> list[str]:
    """Delete the ended ones of a task that are older than its newest ``keep``; their ids."""
    of_task = invocations.c.task_id == task_id
    newest = select(invocations.c.seq).where(of_task).order_by(invocations.c.seq.desc())
    oldest_kept = db.execute(newest.offset(keep).limit(1)).scalar()
    if oldest_kept is None:
        return []
    old = of_task & invocations.c.state.in_(_ENDED_INVOCATION) & (invocations.c.seq <= oldest_kept)
    ids = list(db.execute(select(invocations.c.id).where(old)).scalars())
    db.execute(delete(invocations).where(old))
    return ids


def _invocation(row: Any) -> Invocation:
    return Invocation(**{**row._mapping, "state": InvocationState(row.state)})  # noqa: SLF001  # SQLAlchemy's public name
