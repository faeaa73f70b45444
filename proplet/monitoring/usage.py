"""What processes and the machine use, as Linux tells it. Reading is here; ``monitor`` decides when."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swashplate.messages import MonitoringProfile

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of one process: seconds of processor time, its own and of its children that have ended, bytes, and numbers of threads
    and of open descriptors.
    """

    user_s: float
    system_s: float
    memory: int
    threads: int
    descriptors: int
    read: int
    written: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


def of_process(pid: int, proc: Path = PROC) -> Usage | None:
    """None when it is gone. What the kernel does not show us counts as 0."""
    folder = proc / str(pid)
    try:
        # The name in parentheses may hold anything; field 14 of proc(5) is the twelfth after it.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]) + int(fields[13]), int(fields[12]) + int(fields[14])
        threads, pages = int(fields[17]), int(fields[21])
    except (OSError, IndexError, ValueError):
        return None
    transferred: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "io").read_text().splitlines():
            name, _, value = line.partition(":")
            transferred[name] = int(value)
    descriptors = 0
    with contextlib.suppress(OSError):
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    return Usage(
        user_s=user / TICKS,
        system_s=system / TICKS,
        memory=pages * PAGE,
        threads=threads,
        descriptors=descriptors,
        read=transferred.get("read_bytes", 0),
        written=transferred.get("write_bytes", 0),
    )


def of_machine(proc: Path = PROC) -> tuple[int, int]:
    """Ticks in which the machine's processors worked, and all ticks, since it started."""
    fields = [int(field) for field in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def percent_between(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The mean over all processors, 0 to 100."""
    elapsed = after[1] - before[1]
    return 100 * (after[0] - before[0]) / elapsed if elapsed > 0 else 0.0


def cgroup_bytes(name: str, folder: Path = CGROUP) -> int | None:
    """``memory.current`` or ``memory.max`` of the container, None outside of one or without a limit."""
    try:
        text = (folder / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def heap_bytes(proc: Path = PROC) -> tuple[int, int]:
    """Of this process: anonymous memory in use, and all of its data that the system has promised."""
    found = {"RssAnon": 0, "VmData": 0}
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    return found["RssAnon"], found["VmData"]


@dataclass(frozen=True)
class Sample:
    """``cpu_percent`` of one processor; ``read`` and ``written`` since the guest was first looked at."""

    cpu_percent: float
    memory: int
    threads: int
    descriptors: int
    read: int
    written: int


def sample(first: Usage, before: Usage, now: Usage, elapsed_s: float) -> Sample:
    """The worker ran other guests before: what it had used when this one was ``first`` looked at is not this one's."""
    return Sample(
        cpu_percent=100 * max(0.0, now.cpu_s - before.cpu_s) / elapsed_s if elapsed_s > 0 else 0.0,
        memory=now.memory,
        threads=now.threads,
        descriptors=now.descriptors,
        read=now.read - first.read,
        written=now.written - first.written,
    )


def shown(taken: Sample, profile: MonitoringProfile, uptime_s: float, total_memory: int) -> dict[str, Any]:
    """One sample as the existing API has it, without what the profile does not want."""
    metrics: dict[str, Any] = {"uptime_seconds": round(uptime_s, 3)}
    if profile.collect_cpu:
        metrics["cpu_percent"] = round(taken.cpu_percent, 2)
    if profile.collect_memory:
        metrics["memory_bytes"] = taken.memory
        metrics["memory_percent"] = round(100 * taken.memory / total_memory, 3)
    if profile.collect_disk_io:
        metrics["disk_read_bytes"], metrics["disk_write_bytes"] = taken.read, taken.written
    if profile.collect_threads:
        metrics["thread_count"] = taken.threads
    if profile.collect_file_descriptors:
        metrics["file_descriptor_count"] = taken.descriptors
    return metrics


def aggregated(samples: Iterable[Sample]) -> dict[str, Any] | None:
    """Over the samples that are kept; None when none is."""
    kept = list(samples)
    if not kept:
        return None
    cpu, memory = [s.cpu_percent for s in kept], [s.memory for s in kept]
    return {
        "avg_cpu_usage": round(sum(cpu) / len(cpu), 2),
        "max_cpu_usage": round(max(cpu), 2),
        "avg_memory_usage": sum(memory) // len(memory),
        "max_memory_usage": max(memory),
        "total_disk_read": kept[-1].read,
        "total_disk_write": kept[-1].written,
        "sample_count": len(kept),
    }
