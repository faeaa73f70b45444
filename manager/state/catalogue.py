"""Which tasks there are: counted, and found by state, name, group and metadata, however many there are.

How many tasks of each state have a name, or a value under a key of their metadata, is kept in ``task_counts``, changed in
the transaction that changes the task; counting a million rows would take longer than showing a page. What there was before is
read from the database and not remembered, so that writing the same tasks twice counts them once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ColumnElement

from manager.state.records import Task
from manager.state.tables import task_counts, task_metadata, tasks
from swashplate.database import Bulk

NAME, GROUP, METADATA = "name", "group", "metadata."
_LONGEST = 200
"""Characters of a key or value in an index; of longer ones it has the digest. PostgreSQL's rows there are limited."""
_CHUNK = 1000

Facet = tuple[str, str]
"""What is counted, and its value."""
EVERY: Facet = ("", "")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Filter:
    """What a task must have, all of it; ``metadata``: the value under each key."""

    state: int | None = None
    name: str | None = None
    group_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def _short(value: Any) -> str:
    """JSON that is the same for equal values, and ASCII."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))
    return text if len(text) <= _LONGEST else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Any) -> Any:
    """JSON knows one kind of number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return value


def facets_of(name: str, given: Mapping[str, Any], group_id: str | None = None) -> frozenset[Facet]:
    """What a task with this name and metadata, of this group, is counted under."""
    group = () if group_id is None else ((GROUP, group_id),)
    metadata = ((METADATA + _short(key), _short(value)) for key, value in given.items())
    return frozenset({EVERY, (NAME, name), *group, *metadata})


def _metadata_rows(seq: int, facets: Iterable[Facet]) -> Iterator[tuple[str, str, int]]:
    for facet, value in facets:
        if facet.startswith(METADATA):
            yield facet, value, seq


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _facets_of(task: Task) -> frozenset[Facet]:
    return facets_of(task.spec.name, task.spec.metadata, task.group_id)


def _facets_in(row: Any) -> frozenset[Facet]:
    spec = json.loads(row.spec_text)
    return facets_of(spec["name"], spec.get("metadata") or {}, row.group_id)


_METADATA_ROW = ["key", "value", "seq"]
_ADD_METADATA = Bulk(_METADATA_ROW, lambda _: insert(task_metadata))
_DROP_METADATA = Bulk(
    _METADATA_ROW, lambda _: delete(task_metadata).where(*(task_metadata.c[n] == bindparam(n) for n in _METADATA_ROW))
)
_COUNTED = ["facet", "value", "state"]
_DROP_EMPTY = Bulk(
    _COUNTED,
    lambda _: delete(task_counts).where(
        *(task_counts.c[n] == bindparam(n) for n in _COUNTED), task_counts.c.n <= literal_column("0")
    ),
)


def _counting(dialect: str) -> Any:
    statement = sqlite.insert(task_counts) if dialect == "sqlite" else postgresql.insert(task_counts)
    return statement.on_conflict_do_update(index_elements=_COUNTED, set_={"n": task_counts.c.n + statement.excluded.n})


_COUNT = Bulk([*_COUNTED, "n"], _counting)


class Changes:
    """What one batch changes."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._counts: Counter[tuple[Facet, int]] = Counter()
        self._added: list[tuple[str, str, int]] = []
        self._dropped: list[tuple[str, str, int]] = []

    def put(self, written: Iterable[Task], before: Mapping[str, Any]) -> None:
        """``before`` are those of them that are there: their rows, with ``state``, ``spec_text`` and ``group_id`` at least."""
        for task in written:
            known, state = before.get(task.id), int(task.state)
            if known is None:
                self._move(task.seq, frozenset(), 0, _facets_of(task), state)
            elif (known.state, known.spec_text) != (state, task.spec_text):
                after = _facets_of(task)
                same = known.spec_text == task.spec_text
                self._move(task.seq, after if same else _facets_in(known), known.state, after, state)

    def drop(self, before: Iterable[Any]) -> None:
        """These rows go, with ``seq`` besides."""
        for row in before:
            self._move(row.seq, _facets_in(row), row.state, frozenset(), 0)

    def _move(self, seq: int, before: frozenset[Facet], old: int, after: frozenset[Facet], new: int) -> None:
        for facet in before:
            self._counts[facet, old] -= 1
        for facet in after:
            self._counts[facet, new] += 1
        if before != after:
            self._added += _metadata_rows(seq, after - before)
            self._dropped += _metadata_rows(seq, before - after)

    def write(self) -> None:
        _DROP_METADATA.execute(self._db, self._dropped)
        _ADD_METADATA.execute(self._db, self._added)
        _COUNT.execute(self._db, [(*facet, state, n) for (facet, state), n in self._counts.items() if n])
        # Values may be as many as tasks; of those that nobody has, none is kept.
        emptied = [(*facet, state) for (facet, state), n in self._counts.items() if n < 0 and facet != EVERY]
        _DROP_EMPTY.execute(self._db, emptied)


def find(db: Connection, wanted: Filter, offset: int, limit: int) -> tuple[int, list[int]]:
    """How many tasks there are of that kind, and a page of them by ``seq``, newest first."""
    facets = {(METADATA + _short(key), _short(value)) for key, value in wanted.metadata.items()}
    named = facets if wanted.name is None else {*facets, (NAME, wanted.name)}
    whole = set() if wanted.group_id is None else {(GROUP, wanted.group_id)}
    counts = counts_of(db, {EVERY, *named, *whole})

    def of_state(facet: Facet) -> int:
        return sum(n for state, n in counts[facet].items() if wanted.state in {None, state})

    total = min(of_state(facet) for facet in counts)
    if total == 0:
        return 0, []
    # Looked up by the rarest, and the others are checked for what that finds.
    sizes = {facet: sum(counts[facet].values()) for facet in named}
    if wanted.state is not None:
        sizes[EVERY] = of_state(EVERY)
    rarest = min(sizes, key=lambda facet: sizes[facet], default=EVERY)
    matching = _matching(wanted, facets, rarest)
    if len(named) + len(whole) > 1:
        total = db.execute(select(func.count()).select_from(matching.subquery())).scalar_one()
    return total, _page(db, matching, total, offset, limit)


def counts_of(db: Connection, facets: Iterable[Facet]) -> dict[Facet, dict[int, int]]:
    """State → how many, of each."""
    found: dict[Facet, dict[int, int]] = {facet: {} for facet in facets}
    rows = db.execute(select(task_counts).where(tuple_(task_counts.c.facet, task_counts.c.value).in_(list(found))))
    for row in rows:
        found[row.facet, row.value][row.state] = row.n
    return found


def _matching(wanted: Filter, facets: set[Facet], rarest: Facet) -> Select[int]:
    if rarest in facets and wanted.group_id is None:
        found = select(task_metadata.c.seq).where(task_metadata.c.key == rarest[0], task_metadata.c.value == rarest[1])
        found = found.where(*(_has(facet, task_metadata.c.seq) for facet in sorted(facets - {rarest})))
        columns = _columns(wanted)
        return found.where(exists().where(tasks.c.seq == task_metadata.c.seq, *columns)) if columns else found
    leading = "group_id" if wanted.group_id is not None else "name" if rarest[0] == NAME else "state"
    columns = _columns(wanted, leading)
    return select(tasks.c.seq).where(*columns, *(_has(facet, tasks.c.seq) for facet in sorted(facets)))


def _columns(wanted: Filter, leading: str = "") -> list[ColumnElement[bool]]:
    """Conditions on columns. Only ``leading`` may be looked up by an index: SQLite would take any of them."""
    given = {"state": wanted.state, "name": wanted.name, "group_id": wanted.group_id}
    return [
        tasks.c[name] == value if name == leading else func.coalesce(tasks.c[name], None) == value
        for name, value in given.items()
        if value is not None
    ]


def _has(facet: Facet, seq: Any) -> Any:
    other = task_metadata.alias()
    return exists().where(other.c.key == facet[0], other.c.value == facet[1], other.c.seq == seq)


def _page(db: Connection, matching: Select[int], total: int, offset: int, limit: int) -> list[int]:
    """What comes before a page must be stepped over; from the nearer end."""
    seq = matching.selected_columns[0]
    limit = min(limit, total - offset)
    if limit <= 0:
        return []
    after = total - offset - limit
    if after < offset:
        rows = db.execute(matching.order_by(seq.asc()).offset(after).limit(limit))
        return [row[0] for row in rows][::-1]
    return [row[0] for row in db.execute(matching.order_by(seq.desc()).offset(offset).limit(limit))]
