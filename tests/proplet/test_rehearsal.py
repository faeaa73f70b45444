"""What a zygote does before its first fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REHEARSE = """
import os, sys
from pathlib import Path
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.rehearsal import rehearse

Path(f"rehearsal-{os.getpid()}/in").mkdir(parents=True)
rehearse(ModuleCache(Path("modules").absolute()))
"""


def test_one_that_was_killed_while_it_rehearsed_keeps_no_other_of_its_number_from_it(tmp_path):
    """In a container a process has the same number at every start."""
    subprocess.run(
        [sys.executable, "-c", REHEARSE], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=60
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modules", "modules.key"]
