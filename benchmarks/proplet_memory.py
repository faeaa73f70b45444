"""What an idle proplet takes: the memory of its agent, its zygote and two warm workers together.

Ours is their proportional set size as if nothing else ran on the machine: a page that several of the four share counts
once, also when processes of other roles have the same library open. The proplet stands in a stack of real processes, and its
two workers have run tasks before. The peer's figure is resident memory.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import local_stack, processes
from benchmarks.report import Report
from benchmarks.tasks import Load

SLOTS = 2
TASKS = 200
TARGET_MIB = 80.0
FLOWER = {"cited": 256.0, "source": "Flower's idle supernode and executor, resident memory, 2 cores"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="looks, a second apart, of which the median counts")
    parser.add_argument("--port-offset", type=int, default=None, help="added to every port (default: what is free)")


@dataclass(frozen=True)
class Memory:
    """Of one process, in KiB: proportional set size, that of it which no file stands behind, and resident pages by mapping."""

    pss: int
    anonymous: int
    of_files: dict[str, int]


def memory_of(pid: int) -> Memory:
    pss = anonymous = 0
    of_files: Counter[str] = Counter()
    mapping, resident = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        match name:
            case "Rss":
                resident = int(rest.split()[0])
            case "Pss":
                pss += int(rest.split()[0])
            case "Anonymous":
                of_files[mapping] += resident - int(rest.split()[0])
            case _ if "-" in name.partition(" ")[0]:
                fields = line.split()
                mapping = f"{fields[5]} {fields[2]}" if len(fields) > 5 else ""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            anonymous = int(line.split()[1])
    return Memory(pss, anonymous, dict(of_files))


def alone_mib(found: Iterable[Memory]) -> float:
    """Together, if nobody else had the same files in memory."""
    listed = list(found)
    most: Counter[str] = Counter()
    for memory in listed:
        most |= Counter(memory.of_files)
    return (sum(memory.anonymous for memory in listed) + most.total()) / 1024


def of_proplet(up: int) -> dict[str, int]:
    """The processes of the only proplet below ``up``."""
    parents = processes.parents()
    [agent] = [pid for pid, parent in parents.items() if parent == up and processes.role(pid) == "proplet"]
    [zygote] = [pid for pid, parent in parents.items() if parent == agent]
    workers = sorted(pid for pid, parent in parents.items() if parent == zygote)
    return {"agent": agent, "zygote": zygote} | {f"worker {n}": pid for n, pid in enumerate(workers, 1)}


async def measured(options: argparse.Namespace) -> Report:
    looks: list[dict[str, Memory]] = []
    with tempfile.TemporaryDirectory() as below:
        settings = {"PROPLET_SLOTS": str(SLOTS), "PROPLET_METRICS_PORT": "0"}
        async with local_stack.running(
            Path(below), proplets=1, broker="embedded", settings=settings, offset=options.port_offset
        ) as stack:
            load = Load(stack.manager, one_request=True)
            await load.launch_all(range(TASKS))
            await load.all_ended()
            for _ in range(options.runs):
                await asyncio.sleep(1)
                looks.append({name: memory_of(pid) for name, pid in of_proplet(stack.pid).items()})
    parts = {name: round(statistics.median(look[name].pss for look in looks) / 1024, 1) for name in looks[-1]}
    if len(parts) != SLOTS + 2:
        raise RuntimeError(f"there should be {SLOTS} workers: {parts}")
    return Report(
        name="proplet-memory",
        unit="MiB",
        ours=statistics.median(alone_mib(look.values()) for look in looks),
        runs=options.runs,
        baselines={"Flower": FLOWER},
        details={"pss_mib_beside_the_other_roles": parts, "target_mib": TARGET_MIB},
    )


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measured(options))
