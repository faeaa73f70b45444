"""What each proplet holds, and so how much more it may be given."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from manager.fleet.proplet import Proplet
from manager.fleet.proplets import Proplets
from manager.state.records import Attempt, AttemptKey, Task
from manager.state.states import AttemptState
from manager.work.pace import SHORT_S, Paces, smoothed
from manager.work.placement import Candidate, Requirements, could_take, explain
from manager.work.ranking import Ranking
from swashplate.errors import UnavailableError
from swashplate.messages import Capabilities, RunTerms, TaskCreate

AHEAD_PER_SLOT = 4
"""A proplet whose attempts end within ``SHORT_S`` is given some more such than it has slots, so that it never waits for the
manager between two of them; so few that nobody waits for more than a second of work behind them."""
_TERMS = {name: value for name, value in RunTerms() if name != "signatures"}


@dataclass(slots=True)
class _Held:
    """``slots`` are the attempts that occupy one; a latent task that waits for invocations does not, each invocation does."""

    attempts: set[AttemptKey] = field(default_factory=set)
    slots: set[AttemptKey] = field(default_factory=set)
    invocations: int = 0
    memory: int = 0
    last_placed: float = 0.0
    turnaround: float = 1.0
    full: bool = False
    long: set[AttemptKey] = field(default_factory=set)
    """Those behind which nobody is to wait."""


@dataclass(frozen=True, slots=True)
class _AtHand:
    """What a proplet ``said`` that it has, as it is compared with."""

    said: Capabilities
    wasm_features: frozenset[str]
    datasets: frozenset[str]
    digests: frozenset[str]

    @classmethod
    def of(cls, said: Capabilities) -> _AtHand:
        return cls(said, frozenset(said.wasm_features), frozenset(said.datasets), frozenset(said.digests))


def _bounded(spec: TaskCreate) -> bool:
    if spec.model_fields_set.isdisjoint(_TERMS):
        return False
    return any(getattr(spec, name) != default for name, default in _TERMS.items())


def requirements_of(task: Task, target: str | None, avoided: frozenset[str] = frozenset()) -> Requirements:
    spec = task.spec
    return Requirements(
        selector=tuple(sorted(spec.selector.items())),
        memory_bytes=spec.memory_bytes,
        wasm_features=frozenset(spec.wasm_features),
        dataset=spec.dataset,
        pinned=target,
        digest=task.digest,
        encrypted=spec.encrypted,
        avoided=avoided,
        bounded=_bounded(spec),
    )


class Load:
    def __init__(self, proplets: Proplets, clock: Callable[[], float] = time.time) -> None:
        self._proplets = proplets
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._candidates: dict[str, Candidate] = {}
        self._at_hand: dict[str, _AtHand] = {}
        self.paces = Paces()
        self.ranking = Ranking()
        """Those that could be given something now."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when somebody could be given what could not be given to it before."""

    def refresh(self, proplet_id: str) -> None:
        """Something about this proplet has changed."""
        proplet = self._proplets.known(proplet_id)
        if proplet is None:
            self._candidates.pop(proplet_id, None)
            self._at_hand.pop(proplet_id, None)
            self.ranking.drop(proplet_id)
            return
        before, described = self._candidates.get(proplet_id), self._at_hand.get(proplet_id)
        candidate = self._candidate(proplet)
        if candidate == before:
            return
        self._candidates[proplet_id] = candidate
        if candidate.room > 0 and candidate.alive and not candidate.cordoned:
            as_before = proplet_id in self.ranking.ids and self._at_hand[proplet_id] is described
            self.ranking.put(candidate)
            # Whoever just has less room than before can take nothing that he could not.
            if before is None or not as_before or candidate.room >= before.room:
                self.on_room()
        else:
            self.ranking.drop(proplet_id)

    def _candidate(self, proplet: Proplet) -> Candidate:
        has, held = proplet.capabilities, self._held.get(proplet.id) or _Held()
        quick = has.slots - len(held.long & held.slots) if held.turnaround < SHORT_S else 0
        ahead = min(has.queue, AHEAD_PER_SLOT * max(0, quick))
        active = len(held.slots) + held.invocations
        at_hand = self._at_hand.get(proplet.id)
        if at_hand is None or at_hand.said is not has:
            at_hand = self._at_hand[proplet.id] = _AtHand.of(has)
        return Candidate(
            proplet_id=proplet.id,
            slots=has.slots,
            active=active,
            last_placed=held.last_placed,
            labels=has.labels,
            memory_bytes=has.memory_bytes,
            memory_reserved=held.memory,
            wasm_features=at_hand.wasm_features,
            datasets=at_hand.datasets,
            digests=at_hand.digests,
            cordoned=proplet.cordoned,
            alive=self._proplets.alive(proplet),
            legacy=proplet.legacy,
            room=0 if held.full else has.slots + ahead - active,
        )

    def takers(self, task: Task) -> list[str]:
        """Everyone who could be given ``task``, at the latest when there is room. Raises ``UnavailableError``."""
        wanted = requirements_of(task, None)
        known = [self._candidate(proplet) for proplet in self._proplets.list()]
        found = [each.proplet_id for each in known if could_take(wanted, each)]
        if not found:
            raise UnavailableError(
                f"no proplet can take it: {explain(wanted, known)}",
                code="no_proplet",
                hint="GET /proplets shows them",
            )
        return found

    def anybody(self, task: Task, avoided: frozenset[str]) -> bool:
        """Is there anyone else who could be given ``task``?"""
        wanted = requirements_of(task, None, avoided)
        return any(could_take(wanted, candidate) for candidate in self._candidates.values())

    def candidates(self) -> Collection[Candidate]:
        return self._candidates.values()

    def count(self, proplet_id: str) -> int:
        """How many open attempts it has been given."""
        held = self._held.get(proplet_id)
        return len(held.attempts) if held else 0

    def held_by(self, proplet_id: str) -> list[AttemptKey]:
        held = self._held.get(proplet_id)
        return list(held.attempts) if held else []

    def holders(self) -> list[str]:
        """The proplets that have open attempts."""
        return [proplet_id for proplet_id, held in self._held.items() if held.attempts]

    def give(self, task: Task, attempt: Attempt) -> None:
        """``attempt`` is with its proplet now."""
        assert attempt.proplet_id is not None
        held = self._held.setdefault(attempt.proplet_id, _Held())
        held.attempts.add(attempt.key)
        held.slots.add(attempt.key)
        if task.standing or not self.paces.short(task.digest):
            held.long.add(attempt.key)
        held.memory += task.spec.memory_bytes
        held.last_placed = max(held.last_placed, attempt.offered_at or 0.0)
        self.refresh(attempt.proplet_id)

    def idle(self, attempt: Attempt) -> None:
        """It is deployed, and occupies a slot only while it is invoked."""
        held = self._held.get(attempt.proplet_id or "")
        if held is not None:
            held.slots.discard(attempt.key)
            self.refresh(attempt.proplet_id or "")

    def invoking(self, proplet_id: str, count: int) -> None:
        """So many invocations run there."""
        self._held.setdefault(proplet_id, _Held()).invocations = count
        self.refresh(proplet_id)

    def free_slots(self, proplet_id: str) -> int:
        proplet, held = self._proplets.known(proplet_id), self._held.get(proplet_id) or _Held()
        return 0 if proplet is None else max(0, proplet.capabilities.slots - len(held.slots) - held.invocations)

    def forget(self, proplet_id: str) -> None:
        """It was deleted."""
        self._held.pop(proplet_id, None)
        self.refresh(proplet_id)

    def take_back(self, task: Task, attempt: Attempt) -> None:
        """``attempt`` has ended; does nothing when no proplet had it."""
        held = self._held.get(attempt.proplet_id or "")
        if held is None or attempt.key not in held.attempts:
            return
        held.attempts.discard(attempt.key)
        held.slots.discard(attempt.key)
        held.long.discard(attempt.key)
        held.memory -= task.spec.memory_bytes
        if attempt.offered_at is not None and attempt.state is not AttemptState.DENIED:
            took = self._clock() - attempt.offered_at
            held.turnaround = smoothed(held.turnaround, took)
            self.paces.took(task.digest or "", took)
        self.refresh(attempt.proplet_id or "")

    def full(self, proplet_id: str) -> None:
        """It denied a start for want of a slot; until its next report it is asked no more."""
        self._held.setdefault(proplet_id, _Held()).full = True
        self.refresh(proplet_id)

    def reported(self, proplet_id: str) -> None:
        """Whatever it denied, it may be asked again. Most reports change nothing, and there may be a thousand a second."""
        held = self._held.get(proplet_id)
        if held is not None and held.full:
            held.full = False
            self.refresh(proplet_id)
