"""The memory of a container, as its control groups say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proplet.container import memory_limit

GIB = 1 << 30


def groups(root: Path, own: str, limits: dict[str, str]) -> int | None:
    """``own`` is what /proc/self/cgroup has, ``limits`` the files below the mount."""
    (root / "cgroup").write_text(own)
    for path, text in limits.items():
        (root / "mount" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "mount" / path).write_text(text + "\n")
    return memory_limit(root / "mount", root / "cgroup")


@pytest.mark.parametrize(
    ("own", "limits", "found"),
    [
        ("0::/\n", {"memory.max": str(GIB)}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(GIB), "memory.max": str(2 * GIB)}, GIB),
        ("0::/not/seen/in/here\n", {"memory.max": str(GIB)}, GIB),
        ("4:memory:/docker/x\n0::/\n", {"memory/memory.limit_in_bytes": str(GIB)}, GIB),
        ("4:cpu,memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/\n", {"memory.max": "max"}, None),
        ("4:cpu:/x\n", {"memory/x/memory.limit_in_bytes": str(GIB)}, None),
        ("", {}, None),
    ],
)
def test_the_smallest_limit_on_the_way_up_is_the_containers(tmp_path, own, limits, found):
    assert groups(tmp_path, own, limits) == found


def test_a_machine_without_control_groups_has_no_limit(tmp_path):
    assert memory_limit(tmp_path / "mount", tmp_path / "missing") is None
