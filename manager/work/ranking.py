"""The proplets that have room, in the order in which placement prefers them, so that choosing one does not ask thousands."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from sortedcontainers import SortedList

from manager.work.placement import Candidate, Requirements, Strategy, choose, fits

FEW = 64
"""So many that have something at hand are compared one by one. Of more, one is soon met in passing."""


class Ranking:
    """Chooses as ``placement.choose`` would among all of them."""

    def __init__(self) -> None:
        self._candidates: dict[str, Candidate] = {}
        self._order: SortedList[tuple[float, float, str]] = SortedList()
        self._having: dict[str, set[str]] = {}
        """Digest, or dataset with a ``/`` before it → who has it at hand."""

    @property
    def ids(self) -> AbstractSet[str]:
        return self._candidates.keys()

    def put(self, candidate: Candidate) -> None:
        before = self._candidates.get(candidate.proplet_id)
        if before is not None:
            self._order.remove(_rank(before))
        if before is None or (before.digests, before.datasets) != (candidate.digests, candidate.datasets):
            if before is not None:
                self._lose(before)
            for name in _at_hand(candidate):
                self._having.setdefault(name, set()).add(candidate.proplet_id)
        self._candidates[candidate.proplet_id] = candidate
        self._order.add(_rank(candidate))

    def drop(self, proplet_id: str) -> None:
        before = self._candidates.pop(proplet_id, None)
        if before is not None:
            self._order.remove(_rank(before))
            self._lose(before)

    def _lose(self, candidate: Candidate) -> None:
        for name in _at_hand(candidate):
            self._having[name].discard(candidate.proplet_id)
            if not self._having[name]:
                del self._having[name]

    def choose(self, requirements: Requirements, strategy: Strategy = Strategy.LEAST_LOADED) -> str | None:
        """The proplet that is given the attempt; None when nobody fits."""
        if requirements.pinned is not None:
            pinned = self._candidates.get(requirements.pinned)
            return requirements.pinned if pinned is not None and fits(requirements, pinned) else None
        if strategy is Strategy.ROUND_ROBIN:
            return choose(requirements, self._candidates.values(), strategy)
        if requirements.dataset:
            chosen = choose(requirements, self._those(f"/{requirements.dataset}"), strategy)
            if chosen is not None:
                return chosen
        holders = self._having.get(requirements.digest or "", set())
        if len(holders) > FEW:
            return self._first_at_hand(requirements)
        first = next(self._suitable(requirements), None)
        if first is None:
            return None
        return choose(requirements, [first, *self._those(requirements.digest or "")], strategy)

    def _those(self, name: str) -> list[Candidate]:
        return [self._candidates[proplet_id] for proplet_id in self._having.get(name, ())]

    def _suitable(self, requirements: Requirements) -> Iterator[Candidate]:
        for load, _, proplet_id in self._order:
            if load >= 1 and not requirements.patient:
                return  # from here on nobody has a free slot
            if fits(requirements, self._candidates[proplet_id]):
                yield self._candidates[proplet_id]

    def _first_at_hand(self, requirements: Requirements) -> str | None:
        """Of the least loaded the first that has the binary, else the first."""
        first: Candidate | None = None
        for candidate in self._suitable(requirements):
            first = first or candidate
            if candidate.load > first.load:
                break
            if requirements.digest in candidate.digests:
                return candidate.proplet_id
        return None if first is None else first.proplet_id


def _rank(candidate: Candidate) -> tuple[float, float, str]:
    return candidate.load, candidate.last_placed, candidate.proplet_id


def _at_hand(candidate: Candidate) -> Iterator[str]:
    yield from candidate.digests
    yield from (f"/{dataset}" for dataset in candidate.datasets)
