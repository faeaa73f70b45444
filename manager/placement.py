"""Which proplet runs a task: a pure decision over what the proplets last reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """``active`` counts the attempts that the manager has placed there and that have not ended."""

    proplet_id: str
    slots: int
    active: int
    last_placed: float
    datasets: frozenset[str] = frozenset()


def choose(candidates: Iterable[Candidate], *, dataset: str = "") -> str | None:
    """The least loaded candidate; a proplet that holds the dataset comes first; ties go to the one placed on longest ago.

    None when there is no candidate.
    """

    def cost(candidate: Candidate) -> tuple[bool, float, float, str]:
        far = bool(dataset) and dataset not in candidate.datasets
        return far, candidate.active / max(candidate.slots, 1), candidate.last_placed, candidate.proplet_id

    best = min(candidates, key=cost, default=None)
    return None if best is None else best.proplet_id
