"""Damaged modules: each runs within its limits or is refused with a code, and none takes the process with it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

ENDS = {
    "ran", "loaded", "trap", "wasmtimeerror",
    "guest_invalid", "guest_link", "import_not_allowed", "http_unsupported", "memory_limit", "table_limit",
}  # fmt: skip


@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 150), pytest.param(150, 10_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
)
def test_a_mutant_harms_nobody(tmp_path, first, last):
    command = [sys.executable, "-m", "tests.support.mutants", str(tmp_path), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), f"the last one was {lines[-1]}"
    ends = Counter(line.partition(" ")[2] for line in lines)
    assert ends.total() == last - first
    assert set(ends) <= ENDS
    assert min(ends["ran"], ends["loaded"], ends["guest_invalid"]) > 0, ends
