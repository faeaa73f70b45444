"""What was measured, as it is kept: a ring of rows for each proplet and each task. Every function takes an open transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, func, select

from manager.state.catalogue import chunks
from manager.state.tables import proplets, samples, tasks
from swashplate.database import replacing

_SAVED = replacing(samples)


def task_subject(task_id: str) -> str:
    return f"task {task_id}"


def proplet_subject(proplet_id: str) -> str:
    return f"proplet {proplet_id}"


def existing(db: Connection, subjects: Iterable[str]) -> set[str]:
    """Those of the subjects that have not been deleted."""
    wanted, found = set(subjects), set()
    for table, subject_of in ((tasks, task_subject), (proplets, proplet_subject)):
        prefix = subject_of("")
        ids = [subject.removeprefix(prefix) for subject in wanted if subject.startswith(prefix)]
        for chunk in chunks(ids):
            rows = db.execute(select(table.c.id).where(table.c.id.in_(chunk)))
            found |= {subject_of(row.id) for row in rows}
    return found


def last_number(db: Connection, subject: str) -> int:
    """The number of the newest one, counted from 1; 0 when there is none."""
    wanted = select(func.coalesce(func.max(samples.c.number), 0)).where(samples.c.subject == subject)
    return int(db.execute(wanted).scalar_one())


def save(db: Connection, rows: Sequence[tuple[str, int, int, str]]) -> None:
    """Each: subject, slot, number and sample."""
    _SAVED.execute(db, rows)


def newest(db: Connection, subject: str, most: int) -> list[str]:
    """The newest ``most`` ones, newest first."""
    wanted = select(samples.c.sample).where(samples.c.subject == subject).order_by(samples.c.number.desc())
    return [row.sample for row in db.execute(wanted.limit(most))]


def erase(db: Connection, subjects: Iterable[str]) -> None:
    db.execute(delete(samples).where(samples.c.subject.in_(list(subjects))))
