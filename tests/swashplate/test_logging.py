"""Logs must never be in the way of what they tell about."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging
from swashplate import logging as ours
ours.configure(service="s")
for _ in range(3):
    ours.get("c").warning("x" * 20_000)
    logging.getLogger("library").warning("y" * 20_000)
print("went on")
"""


def test_a_full_disk_costs_the_line_and_not_the_work():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False
        )
    assert done.stdout == "went on\n"
