"""The attempts that wait for a proplet: by priority, then by age, and never looked at one by one.

Attempts that fit the same proplets stand in one line. Only the first of each line is asked whether it can be placed: when
it cannot, nobody behind it can. So a slot that becomes free costs what there are different demands, not what waits.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from sortedcontainers import SortedList

from manager.work.placement import Constraint, Requirements

Key = tuple[str, int]
"""Task id and attempt number."""


class Waiting(NamedTuple):
    """Sorts by ``rank``: the highest priority first, then the oldest, then the one that was put in first."""

    rank: tuple[int, float, int]
    key: Key
    requirements: Requirements


class _Line:
    """Those with one constraint, in order."""

    def __init__(self) -> None:
        self.waiting: SortedList = SortedList()

    def head(self) -> Waiting | None:
        return self.waiting[0] if self.waiting else None


class WaitingQueue:
    def __init__(self) -> None:
        self._sequence = itertools.count()
        self._entries: dict[Key, Waiting] = {}
        self._all: SortedList = SortedList()
        self._lines: dict[Constraint, _Line] = {}
        # Heads of lines: of those that anybody may serve, and by the proplet that alone may.
        self._open: SortedList = SortedList()
        self._pinned: dict[str, SortedList] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Waiting]:
        """In order."""
        return iter(self._all)

    def push(self, key: Key, requirements: Requirements, *, priority: int, created_at: float) -> None:
        """``created_at`` in epoch seconds. One that waits already changes its place accordingly."""
        self.remove(key)
        entry = Waiting((-priority, created_at, next(self._sequence)), key, requirements)
        self._entries[key] = entry
        self._all.add(entry)
        line = self._lines.setdefault(requirements.constraint, _Line())
        before = line.head()
        line.waiting.add(entry)
        self._head_changed(requirements, before, line.head())

    def remove(self, key: Key) -> bool:
        """False when it did not wait."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._all.remove(entry)
        constraint = entry.requirements.constraint
        line = self._lines[constraint]
        before = line.head()
        line.waiting.remove(entry)
        self._head_changed(entry.requirements, before, line.head())
        if not line.waiting:
            del self._lines[constraint]
        return True

    def reprioritise(self, key: Key, priority: int) -> bool:
        """Its age stays what it was. False when it does not wait."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self.push(key, entry.requirements, priority=priority, created_at=entry.rank[1])
        return True

    def position(self, key: Key) -> int | None:
        """1 for the first of all that wait; None when it does not."""
        entry = self._entries.get(key)
        return None if entry is None else self._all.index(entry) + 1

    def heads(self, proplets: AbstractSet[str]) -> Iterator[Waiting]:
        """In order, whoever may go to one of ``proplets``, the ids of those that have room.

        Whoever is removed from the queue before the next is asked for was placed, and the one behind it gets its turn;
        whoever is not keeps those of the same constraint from being asked. Take a proplet out of ``proplets`` when its room
        is used up; without any left this ends.
        """
        cursor: Waiting | None = None
        # The smaller set is walked: there may be thousands of proplets with room and nobody pinned, or the other way.
        few, many = sorted((self._pinned.keys(), proplets), key=len)
        pinned = [proplet for proplet in few if proplet in many]
        firsts = [(self._pinned[proplet][0], proplet) for proplet in pinned]
        heapq.heapify(firsts)
        while proplets:
            while firsts and (firsts[0][1] not in proplets or firsts[0][0].key not in self._entries):
                self._next_of(firsts, cursor, proplets)
            entry = _after(self._open, cursor)
            if firsts and (entry is None or firsts[0][0] < entry):
                entry = firsts[0][0]
            if entry is None:
                return
            cursor = entry
            yield entry
            if firsts and firsts[0][0] is entry:
                self._next_of(firsts, cursor, proplets)

    def _next_of(self, firsts: list[tuple[Waiting, str]], cursor: Waiting | None, proplets: AbstractSet[str]) -> None:
        """Put the next of the same proplet behind ``cursor`` into the place of the first."""
        proplet = firsts[0][1]
        heads = self._pinned.get(proplet)
        found = _after(heads, cursor) if heads and proplet in proplets else None
        if found is None:
            heapq.heappop(firsts)
        else:
            heapq.heapreplace(firsts, (found, proplet))

    def _head_changed(self, requirements: Requirements, before: Waiting | None, after: Waiting | None) -> None:
        if before is after:
            return
        pinned = requirements.pinned
        heads = self._open if pinned is None else self._pinned.setdefault(pinned, SortedList())
        if before is not None:
            heads.remove(before)
        if after is not None:
            heads.add(after)
        if pinned is not None and not heads:
            del self._pinned[pinned]


def _after(heads: SortedList, cursor: Waiting | None) -> Waiting | None:
    index = 0 if cursor is None else heads.bisect_right(cursor)
    return heads[index] if index < len(heads) else None
