"""How much memory the control groups of this process leave to it: a container has less than its machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""Bytes. The older kind writes a number above it where there is no limit, the newer one a word."""
V1, V2 = "memory.limit_in_bytes", "memory.max"


def memory_limit(mount: Path = MOUNT, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes: the smallest limit of the groups that this process is in, from its own up to the first. None without one."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    found = [limit for folder, name in _groups(lines, mount) for limit in _limits(folder, mount, name)]
    return min(found, default=None)


def _groups(lines: list[str], mount: Path) -> Iterator[tuple[Path, str]]:
    """Where each group may be and what its limit is called there; /proc/self/cgroup has ``number:controllers:path``."""
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        inside = path.strip("/")
        if not controllers:
            yield mount / inside, V2
            yield mount / "unified" / inside, V2
        elif "memory" in controllers.split(","):
            yield mount / "memory" / inside, V1


def _limits(folder: Path, mount: Path, name: str) -> Iterator[int]:
    """A group that is not to be seen in here is that of the container, and the limits further up are its own."""
    for each in (folder, *folder.parents):
        if not each.is_relative_to(mount):
            return
        try:
            text = (each / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < UNLIMITED:
            yield int(text)
