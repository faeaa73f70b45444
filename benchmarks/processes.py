"""What the processes of a stack have used: CPU time and memory, from ``/proc``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                found[int(entry.name)] = int(fields[1])
    return found


def _stat(pid: int) -> list[str]:
    """The fields after the command's name; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_s(pid: int) -> float:
    """Seconds of CPU that ``pid`` has used, user and system, all its threads; in steps of 10 ms."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) * TICK_S if fields else 0.0


def rss_mib(pid: int) -> float:
    fields = _stat(pid)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20) if fields else 0.0


def role(pid: int) -> str:
    """``manager`` for ``python -m manager``, else the program's name."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    if b"-m" in words:
        return words[words.index(b"-m") + 1].decode()
    return Path(words[0].decode()).name


def roles_below(root: int) -> dict[int, str]:
    """Each descendant of ``root``, such as a stack's ``up``, by what it is; the workers of a proplet are its children."""
    parent = parents()
    found: dict[int, str] = {}
    for pid in sorted(parent):
        above = pid
        chain = []
        while above in parent and above != root:
            chain.append(above)
            above = parent[above]
        if above == root and chain:
            top = role(chain[-1])
            found[pid] = f"{top} workers" if len(chain) > 1 else top
    return found


def cpu_by_role(roles: dict[int, str], extra: Iterable[tuple[str, int]] = ()) -> Counter[str]:
    """CPU seconds of every role so far."""
    used: Counter[str] = Counter()
    for name, pid in [*((name, pid) for pid, name in roles.items()), *extra]:
        used[name] += cpu_s(pid)  # type: ignore[assignment]  # a Counter of floats
    return used
