"""What the proplet has done so far, in plain numbers; ``metrics`` shows them to Prometheus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    started: int = 0
    completed: int = 0
    failed: int = 0
    connects: int = 0

    def ended(self, *, failed: bool) -> None:
        if failed:
            self.failed += 1
        else:
            self.completed += 1
