"""What every benchmark answers with, and what machine it ran on."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from typing import Any


def fsync_p50_ms(samples: int = 50) -> float:
    """Median time to write 4 KiB and make it durable, in milliseconds."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(samples):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "fsync_p50_ms": round(fsync_p50_ms(), 3),
        "python": platform.python_version(),
    }


@dataclass
class Report:
    """``ours`` is a median in ``unit``; a baseline is a median of the same run, or ``{"cited": value, "source": …}``."""

    name: str
    unit: str
    ours: float
    runs: int
    baselines: dict[str, float | dict[str, Any]]
    details: dict[str, Any] = field(default_factory=dict)
    """What else was measured, each figure with its unit in its name."""
    machine: dict[str, Any] = field(default_factory=machine)

    @property
    def ratio(self) -> float:
        """Ours divided by the first baseline."""
        first = next(iter(self.baselines.values()))
        return self.ours / (first["cited"] if isinstance(first, dict) else first)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}
