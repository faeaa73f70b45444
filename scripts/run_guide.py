"""Runs the commands of docs/guide.md one block after the other, and ends at the first that fails or prints less than shown.

Usage: ``python3 scripts/run_guide.py compose c [--before HEADING FILE]… [GUIDE]`` in the folder that the guide is about.
The commands of FILE run before the first block below HEADING. Standard library only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from guide_blocks import GUIDE, MARK, Block, blocks, missing, script


def with_checks(found: list[Block], checks: list[tuple[str, str]]) -> list[Block]:
    """The blocks, and before the first one of a heading that is named, a block with the commands of its file."""
    for heading, file in checks:
        at = next((i for i, block in enumerate(found) if block.heading == heading), None)
        if at is None:
            sys.exit(f"the guide has no commands below the heading {heading!r}")
        extra = Block(f"before {heading!r}: {file}", frozenset(), Path(file).read_text(encoding="utf-8"))
        found = [*found[:at], extra, *found[at:]]
    return found


def run(found: list[Block]) -> str:
    """Runs everything in one shell, showing it; answers what went wrong, empty when nothing did."""
    printed: list[list[str]] = []

    def complaint() -> str:
        if not printed:
            return ""
        block = found[len(printed) - 1]
        absent = missing(block.expected, "".join(printed[-1]))
        return "".join(f"{block.heading}: not printed: {line}\n" for line in absent)

    with subprocess.Popen(["bash", "-c", script(found)], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        for line in shell.stdout:
            if not line.startswith(MARK):
                print(f"    {line}", end="", flush=True)
                printed[-1].append(line)
                continue
            if wrong := complaint():
                shell.kill()
                return wrong
            block = found[len(printed)]
            printed.append([])
            print(f"\n== {block.heading}", *block.command.rstrip().splitlines(), sep="\n", flush=True)
    wrong = complaint()
    if not wrong and shell.returncode:
        wrong = f"{found[len(printed) - 1].heading}: exit status {shell.returncode}\n"
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["up", "compose"])
    parser.add_argument("guest", choices=["c", "go"])
    parser.add_argument("guide", nargs="?", type=Path, default=GUIDE)
    parser.add_argument("--before", nargs=2, action="append", default=[], metavar=("HEADING", "FILE"))
    given = parser.parse_args()
    found = with_checks(blocks(given.guide.read_text(encoding="utf-8"), {given.way, given.guest}), given.before)
    if wrong := run(found):
        sys.exit(f"\nFAILED at {wrong}")
    print(f"\n{len(found)} blocks of the guide ran and printed what it shows")


if __name__ == "__main__":
    main()
