"""Which proplet runs a task, and why none does yet: pure decisions over what the proplets last reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

Constraint = tuple[tuple[tuple[str, str], ...], int, frozenset[str], str | None, bool, frozenset[str], bool]


class Strategy(StrEnum):
    """``ROUND_ROBIN`` gives everyone a turn, whatever its load and whatever it has at hand."""

    LEAST_LOADED = "least_loaded"
    ROUND_ROBIN = "round_robin"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What an attempt needs of a proplet. Two attempts with equal requirements can take each other's place.

    ``dataset`` and ``digest`` are preferences: a proplet that has them at hand comes first. The rest must be met.
    ``avoided`` are proplets that denied it a moment ago. ``bounded``: it says how its guest is to run, which an older kind
    of proplet would not hear. Only ``patient`` ones wait at a proplet for a slot.
    """

    selector: tuple[tuple[str, str], ...] = ()
    memory_bytes: int = 0
    wasm_features: frozenset[str] = frozenset()
    dataset: str = ""
    pinned: str | None = None
    digest: str | None = None
    encrypted: bool = False
    avoided: frozenset[str] = frozenset()
    bounded: bool = False
    patient: bool = True

    @property
    def constraint(self) -> Constraint:
        """What must be met, and nothing else: whoever has an equal one fits the same proplets."""
        return (
            self.selector,
            self.memory_bytes,
            self.wasm_features,
            self.pinned,
            self.encrypted,
            self.avoided,
            self.bounded,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """``active`` counts the open attempts that are placed there, ``room`` how many more it may be given now.

    ``memory_bytes`` is the machine's total, 0 when it is not known; ``memory_reserved`` is what its open attempts were
    promised. ``last_placed`` is in epoch seconds. ``legacy`` proplets speak the shared topics; only they decrypt images.
    """

    proplet_id: str
    slots: int = 1
    active: int = 0
    last_placed: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    memory_reserved: int = 0
    wasm_features: frozenset[str] = frozenset()
    datasets: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    cordoned: bool = False
    alive: bool = True
    legacy: bool = False
    room: int = 1

    @property
    def load(self) -> float:
        return self.active / (self.slots or 1)


def choose(
    requirements: Requirements,
    candidates: Iterable[Candidate],
    strategy: Strategy = Strategy.LEAST_LOADED,
) -> str | None:
    """The proplet that is given the attempt; None when it has to wait.

    Of those that fit: one that holds the dataset, then the least loaded, then one that has the binary already, then the
    one placed on longest ago, then the smallest id.
    """
    suitable = (candidate for candidate in candidates if fits(requirements, candidate))
    chosen = min(suitable, key=lambda candidate: cost(requirements, candidate, strategy), default=None)
    return None if chosen is None else chosen.proplet_id


def fits(requirements: Requirements, candidate: Candidate) -> bool:
    """May it be given the attempt now?"""
    selector, memory, features, pinned, encrypted, avoided, bounded = requirements.constraint
    return (
        _has_room(requirements, candidate)
        and candidate.alive
        and not candidate.cordoned
        and (pinned is None or candidate.proplet_id == pinned)
        and candidate.proplet_id not in avoided
        and (not memory or candidate.memory_bytes - candidate.memory_reserved >= memory)
        and (not features or features <= candidate.wasm_features)
        and (not encrypted or candidate.legacy)
        and not (bounded and candidate.legacy)
        and (not selector or _labelled(selector, candidate.labels))
    )


def _has_room(requirements: Requirements, candidate: Candidate) -> bool:
    return candidate.room > 0 and (requirements.patient or candidate.active < candidate.slots)


def could_take(requirements: Requirements, candidate: Candidate) -> bool:
    """Will it be given the attempt, as soon as it has room?"""
    reason = _reason(requirements, candidate)
    return reason is None or reason[0] in {_Why.MEMORY, _Why.SLOTS}


Cost = tuple[bool, float, bool, float, str]


def cost(requirements: Requirements, candidate: Candidate, strategy: Strategy = Strategy.LEAST_LOADED) -> Cost:
    """Whoever has the least is chosen of those that fit."""
    if strategy is Strategy.ROUND_ROBIN:
        return False, 0.0, False, candidate.last_placed, candidate.proplet_id
    dataset, digest = requirements.dataset, requirements.digest
    return (
        dataset != "" and dataset not in candidate.datasets,
        candidate.load,
        digest is not None and digest not in candidate.digests,
        candidate.last_placed,
        candidate.proplet_id,
    )


def _labelled(selector: tuple[tuple[str, str], ...], labels: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector)


class _Why(IntEnum):
    """In the order in which they are told: what never changes by itself comes first."""

    UNLIKE = 0
    OFFLINE = 1
    CORDONED = 2
    DENIED = 3
    MEMORY = 4
    SLOTS = 5


_Reason = tuple[_Why, str, str]
"""Why, the sentence for one proplet, and for several; equal reasons are counted together."""


def explain(requirements: Requirements, candidates: Iterable[Candidate]) -> str:
    """Why nobody is given the attempt, in one sentence.

    Each proplet is counted once, under the first reason that applies.
    """
    known = list(candidates)
    if requirements.pinned is not None:
        return _explain_pinned(requirements.pinned, requirements, known)
    if not known:
        return "no proplet is known yet"
    reasons: dict[_Reason, int] = {}
    short: list[int] = []
    for candidate in known:
        reason = _reason(requirements, candidate)
        if reason is None:
            continue
        if reason[0] is _Why.MEMORY:
            short.append(candidate.memory_bytes - candidate.memory_reserved)
            continue
        reasons[reason] = reasons.get(reason, 0) + 1
    if short:
        reasons[_short_of_memory(max(0, *short), requirements.memory_bytes)] = len(short)
    if (free := len(known) - sum(reasons.values())) > 0:
        return f"it waits for its turn: {_counted(free, len(known))} {'has' if free == 1 else 'have'} room"
    parts: list[str] = []
    for reason, count in sorted(reasons.items()):
        what = reason[1] if count == 1 else reason[2]
        parts.append(f"{_counted(count, len(known)) if not parts else count} {what}")
    return "; ".join(parts)


def _explain_pinned(pinned: str, requirements: Requirements, known: Sequence[Candidate]) -> str:
    for candidate in known:
        if candidate.proplet_id == pinned:
            reason = _reason(requirements, candidate)
            return f"proplet {pinned} {reason[1]}" if reason else f"it waits for its turn at proplet {pinned}"
    return f"proplet {pinned} is not known yet"


def _counted(count: int, total: int) -> str:
    if total == 1:
        return "the only proplet"
    return f"all {total} proplets" if count == total else f"{count} of {total} proplets"


def _short_of_memory(most: int, required: int) -> _Reason:
    rest = f"{_size(most)} free of the {_size(required)} required"
    return _Why.MEMORY, f"has {rest}", f"have at most {rest}"


def _reason(requirements: Requirements, candidate: Candidate) -> _Reason | None:
    """The first thing that keeps this proplet from being chosen; None when nothing does."""
    lacking = [f"{name}={value}" for name, value in requirements.selector if candidate.labels.get(name) != value]
    if lacking:
        what = f"{'labels' if len(lacking) > 1 else 'label'} {', '.join(lacking)}"
        return _Why.UNLIKE, f"lacks {what}", f"lack {what}"
    if missing := sorted(requirements.wasm_features - candidate.wasm_features):
        what = f"the WASM {'features' if len(missing) > 1 else 'feature'} {', '.join(missing)}"
        return _Why.UNLIKE, f"lacks {what}", f"lack {what}"
    if requirements.encrypted and not candidate.legacy:
        return _Why.UNLIKE, "cannot decrypt images", "cannot decrypt images"
    if requirements.bounded and candidate.legacy:
        what = "no limits, isolation or capabilities"
        return _Why.UNLIKE, f"knows {what}", f"know {what}"
    required = requirements.memory_bytes
    if required and not candidate.memory_bytes:
        rest = f"how much memory {_size(required)} is to come from"
        return _Why.UNLIKE, f"does not tell {rest}", f"do not tell {rest}"
    if candidate.memory_bytes < required:
        what = f"less memory than the {_size(required)} required"
        return _Why.UNLIKE, f"has {what}", f"have {what}"
    if not candidate.alive:
        return _Why.OFFLINE, "is offline", "are offline"
    if candidate.cordoned:
        return _Why.CORDONED, "is cordoned", "are cordoned"
    if candidate.proplet_id in requirements.avoided:
        return _Why.DENIED, "denied it a moment ago", "denied it a moment ago"
    free = candidate.memory_bytes - candidate.memory_reserved
    if required and free < required:
        return _short_of_memory(max(0, free), required)
    if not _has_room(requirements, candidate):
        return _Why.SLOTS, "has no free slot", "have no free slot"
    return None


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"
