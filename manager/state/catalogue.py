"""Which tasks there are: counted, and found by state, name, group and metadata, however many there are.

How many tasks of each state have a name, or a value under a key of their metadata, is kept in ``task_counts``, changed in
the transaction that changes the task; counting a million rows would take longer than showing a page. What there was before is
read from the database and not remembered, so that writing the same tasks twice counts them once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ColumnElement

from manager.state.tables import task_counts, task_metadata, tasks

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


def _metadata_rows(seq: int, facets: Iterable[Facet]) -> Iterator[dict[str, Any]]:
    for facet, value in facets:
        if facet.startswith(METADATA):
            yield {"key": facet, "value": value, "seq": seq}


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalogue needs of a task. ``spec_text`` tells whether name or metadata may have changed."""

    id: str
    seq: int
    state: int
    spec_text: str
    name: str
    metadata: Mapping[str, Any]
    group_id: str | None

    @property
    def facets(self) -> frozenset[Facet]:
        return facets_of(self.name, self.metadata, self.group_id)


def _facets_in(row: Any) -> frozenset[Facet]:
    spec = json.loads(row.spec_text)
    return facets_of(spec["name"], spec.get("metadata") or {}, row.group_id)


_WAS = select(tasks.c.id, tasks.c.seq, tasks.c.state, tasks.c.spec_text, tasks.c.group_id)
_KNOWN = _WAS.where(tasks.c.id.in_(bindparam("ids", expanding=True)))
_KNOWN_ONE = _WAS.where(tasks.c.id == bindparam("wanted"))
_ADD_METADATA = insert(task_metadata)
_DROP_METADATA = delete(task_metadata).where(
    task_metadata.c.key == bindparam("old_key"),
    task_metadata.c.value == bindparam("old_value"),
    task_metadata.c.seq == bindparam("old_seq"),
)


_DROP_EMPTY = delete(task_counts).where(
    task_counts.c.facet == bindparam("of_facet"),
    task_counts.c.value == bindparam("of_value"),
    task_counts.c.state == bindparam("of_state"),
    task_counts.c.n <= 0,
)


class Changes:
    """What one batch changes."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._counts: Counter[tuple[Facet, int]] = Counter()
        self._added: list[dict[str, Any]] = []
        self._dropped: list[dict[str, Any]] = []

    def put(self, entries: Sequence[Entry]) -> None:
        """Ask before the rows of ``tasks`` are written."""
        for chunk in chunks(entries):
            before = {row.id: row for row in self._were([entry.id for entry in chunk])}
            for entry in chunk:
                known = before.get(entry.id)
                if known is None:
                    self._move(entry.seq, frozenset(), 0, entry.facets, entry.state)
                elif (known.state, known.spec_text) != (entry.state, entry.spec_text):
                    after = entry.facets
                    same = known.spec_text == entry.spec_text
                    self._move(entry.seq, after if same else _facets_in(known), known.state, after, entry.state)

    def drop(self, ids: Iterable[str]) -> None:
        """Ask before the rows of ``tasks`` are deleted."""
        for chunk in chunks(ids):
            for row in self._were(chunk):
                self._move(row.seq, _facets_in(row), row.state, frozenset(), 0)

    def _were(self, ids: list[str]) -> Iterable[Any]:
        if len(ids) == 1:  # a list costs three times as much
            return self._db.execute(_KNOWN_ONE, {"wanted": ids[0]})
        return self._db.execute(_KNOWN, {"ids": ids})

    def _move(self, seq: int, before: frozenset[Facet], old: int, after: frozenset[Facet], new: int) -> None:
        for facet in before:
            self._counts[facet, old] -= 1
        for facet in after:
            self._counts[facet, new] += 1
        if before != after:
            self._added += _metadata_rows(seq, after - before)
            self._dropped += _metadata_rows(seq, before - after)

    def write(self) -> None:
        if self._dropped:
            self._db.execute(_DROP_METADATA, [{f"old_{name}": v for name, v in row.items()} for row in self._dropped])
        if self._added:
            self._db.execute(_ADD_METADATA, self._added)
        changed = [{"facet": f, "value": v, "state": s, "n": n} for ((f, v), s), n in self._counts.items() if n]
        if changed:
            self._db.execute(_COUNT[self._db.dialect.name], changed)
        # Values may be as many as tasks; of those that nobody has, none is kept.
        emptied = [
            {"of_facet": facet, "of_value": value, "of_state": state}
            for ((facet, value), state), n in self._counts.items()
            if n < 0 and (facet, value) != EVERY
        ]
        if emptied:
            self._db.execute(_DROP_EMPTY, emptied)


def _count(statement: Any) -> Any:
    return statement.on_conflict_do_update(
        index_elements=["facet", "value", "state"], set_={"n": task_counts.c.n + statement.excluded.n}
    )


_COUNT = {"sqlite": _count(sqlite.insert(task_counts)), "postgresql": _count(postgresql.insert(task_counts))}


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
