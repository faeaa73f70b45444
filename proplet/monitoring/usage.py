"""What processes and the machine use, as Linux tells it. Reading is here; ``monitor`` decides when."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proplet.work.course import Spent
from swashplate.messages import MonitoringProfile

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of one process: seconds of processor time, its own and of its children that have ended, bytes, and numbers of threads
    and of open descriptors. ``private`` is the memory that no other process has, ``share`` that and its part of what it
    shares (PSS). ``read`` and ``written`` are bytes from and to storage: a file in memory counts nothing.
    """

    user_s: float
    system_s: float
    private: int
    share: int
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
    transferred = _numbers(folder / "io")
    pieces = _numbers(folder / "smaps_rollup")
    private = 1024 * (pieces["Private_Clean"] + pieces["Private_Dirty"]) if pieces else pages * PAGE
    descriptors = 0
    with contextlib.suppress(OSError):
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    return Usage(
        user_s=user / TICKS,
        system_s=system / TICKS,
        private=private,
        share=1024 * pieces["Pss"] if pieces else pages * PAGE,
        threads=threads,
        descriptors=descriptors,
        read=transferred.get("read_bytes", 0),
        written=transferred.get("write_bytes", 0),
    )


def _numbers(file: Path) -> dict[str, int]:
    """The lines that are a name and a number; none when it cannot be read."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            number = value.removesuffix("kB").strip()
            if number.isdigit():
                found[name] = int(number)
    return found


@dataclass(frozen=True)
class Total:
    """Of the agent and all processes below it, those that have ended too: seconds, and bytes, shared memory counted once."""

    user_s: float
    system_s: float
    memory: int


def of_proplet(children: Iterable[int]) -> Total:
    """``children`` are the zygote and its children."""
    spent = os.times()
    user, system = spent.user + spent.children_user, spent.system + spent.children_system
    own = of_process(os.getpid())
    memory = own.share if own is not None else 0
    for pid in children:
        used = of_process(pid)
        if used is not None:
            user, system, memory = user + used.user_s, system + used.system_s, memory + used.share
    return Total(user, system, memory)


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


def folder_bytes(folder: Path) -> int:
    """Of the files in it."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as listed:
        for entry in listed:
            with contextlib.suppress(OSError):  # dropped meanwhile
                total += entry.stat(follow_symlinks=False).st_size
    return total


def heap_bytes(proc: Path = PROC) -> tuple[int, int]:
    """Of this process: anonymous memory in use, and all of its data that the system has promised."""
    found = _numbers(proc / "self" / "status")
    return found.get("RssAnon", 0) * 1024, found.get("VmData", 0) * 1024


@dataclass(frozen=True)
class Sample:
    """``cpu_percent`` is of one processor; ``read`` and ``written`` are bytes since the guest began."""

    cpu_percent: float
    memory: int
    threads: int
    descriptors: int
    read: int
    written: int


def sample(before: Spent, cpu_before_s: float, now: Usage, elapsed_s: float) -> Sample:
    """What the worker had used ``before`` was for other guests; ``cpu_before_s`` is what it had used ``elapsed_s`` ago."""
    return Sample(
        cpu_percent=_percent(now.cpu_s - cpu_before_s, elapsed_s),
        memory=now.private,
        threads=now.threads,
        descriptors=now.descriptors,
        read=max(0, now.read - before.read),
        written=max(0, now.written - before.written),
    )


def whole(seen: Sample, before: Spent, after: Spent, used: dict[str, float]) -> Sample:
    """The last sample of a guest that has ended, of its whole run; ``used`` is that of its report, and its memory is what
    the guest itself had. ``seen`` is the sample before.
    """
    return replace(
        seen,
        cpu_percent=_percent(after.cpu_s - before.cpu_s, used.get("wall_s", 0.0)),
        memory=int(used.get("memory_bytes", seen.memory)),
        read=max(0, after.read - before.read),
        written=max(0, after.written - before.written),
    )


def _percent(cpu_s: float, elapsed_s: float) -> float:
    return 100 * max(0.0, cpu_s) / elapsed_s if elapsed_s > 0 else 0.0


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
