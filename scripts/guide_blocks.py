"""The commands of docs/guide.md, as a script: what the guide shows is what the tests run.

A fenced block ``bash up compose`` belongs to both ways of running the stack, ``bash up`` or ``bash compose`` to one of
them; with a further word, ``c`` or ``go``, only to the run with that guest. A ``text`` block right after it is what it
prints, ``...`` standing for anything. A plain ``bash`` block is for reading: it has placeholders, or goes on for ever.

``scripts/run_guide.py`` runs them. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guide.md"
MARK = "@@ block"

_WAYS = frozenset({"up", "compose"})
_GUESTS = frozenset({"c", "go"})
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$|^#+ (?P<heading>[^\n]+)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    heading: str
    words: frozenset[str]
    command: str
    expected: tuple[str, ...] = ()

    def belongs_to(self, run: AbstractSet[str]) -> bool:
        return bool(self.words & _WAYS & run) and (not self.words & _GUESTS or bool(self.words & _GUESTS & run))


def blocks(text: str, run: AbstractSet[str]) -> list[Block]:
    """What one run executes, in order: ``run`` is a way and a guest, such as ``{"up", "go"}``."""
    found: list[Block] = []
    heading = ""
    fresh = False
    for part in _FENCE.finditer(text):
        words = (part["info"] or "").split()
        if part["heading"]:
            heading, fresh = part["heading"], False
        elif words[:1] == ["bash"]:
            block = Block(heading, frozenset(words[1:]), part["body"])
            fresh = block.belongs_to(run)
            if fresh:
                found.append(block)
        elif words == ["text"] and fresh:
            last = found.pop()
            found.append(Block(last.heading, last.words, last.command, tuple(part["body"].splitlines())))
            fresh = False
        else:
            fresh = False
    return found


def script(found: list[Block]) -> str:
    """One bash script; before each block it prints ``@@ block N``, and it ends at the first command that fails."""
    lines = ["set -e"]
    for number, block in enumerate(found):
        lines += [f"# {block.heading}", f"echo '{MARK} {number}'", block.command]
    return "\n".join(lines)


def missing(expected: tuple[str, ...], printed: str) -> list[str]:
    """The expected lines that no printed line of their own matches."""
    lines = printed.splitlines()
    absent = []
    for pattern in expected:
        wanted = re.compile(".*".join(map(re.escape, pattern.split("..."))))
        match = next((line for line in lines if wanted.fullmatch(line.rstrip())), None)
        if match is None:
            absent.append(pattern)
        else:
            lines.remove(match)
    return absent
