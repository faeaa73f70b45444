"""What the proplet has done so far, in plain numbers; ``metrics`` shows them to Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MOST_CODES = 64
"""A code may come from a peer; whatever it says, there are no more than so many time series."""
OTHER = "other"
STOPPED = {"stopped", "superseded"}
LIMITS = {
    "binary_too_large",
    "compile_limit",
    "cpu_limit",
    "deadline",
    "file_limit",
    "fuel_exhausted",
    "instance_limit",
    "memory_limit",
    "output_limit",
    "result_too_large",
    "stack_overflow",
    "table_limit",
    "timeout",
}
"""The codes of tasks that wanted more than they may have."""


@dataclass
class Counters:
    """``ends`` counts by outcome (completed, failed, stopped, denied) and code, which is empty for completed."""

    started: int = 0
    connects: int = 0
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)

    def ended(self, code: str) -> None:
        """``code`` is that of the failure, or empty."""
        self._count("stopped" if code in STOPPED else "failed" if code else "completed", code)

    def denied(self, code: str) -> None:
        self._count("denied", code)

    def _count(self, outcome: str, code: str) -> None:
        known = (outcome, code) in self.ends or len(self.ends) < MOST_CODES
        self.ends[outcome, code if known else OTHER] += 1

    def of(self, *outcomes: str) -> int:
        return sum(count for (outcome, _), count in self.ends.items() if outcome in outcomes)

    def breaches(self) -> dict[str, int]:
        """How often a limit ended a task, by code; every limit is there."""
        return {code: self.ends["failed", code] for code in sorted(LIMITS)}
