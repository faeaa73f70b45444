"""Words of sentences for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 task``, ``3 tasks``, ``no tasks``."""
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
