"""The small demo dataset that a participant gets when it has none: the same rows for the same id on every machine. Pure."""

from __future__ import annotations

from typing import Any

ROWS = 64
_SIGN, _WRAP = 1 << 63, 1 << 64


def name_hash(name: str) -> int:
    """``h * 31 + code point`` over the characters, wrapping as a signed 64-bit integer."""
    value = 0
    for character in name:
        value = (value * 31 + ord(character) + _SIGN) % _WRAP - _SIGN
    return value


def rows(name: str) -> list[dict[str, Any]]:
    """Features in [0, 0.9] and labels 0 or 1, also where the hash is negative."""
    found = []
    for i in range(ROWS):
        s = (name_hash(name) + i) % 1000
        found.append({"x": [s % 10 / 10, 2 * s % 10 / 10, 3 * s % 10 / 10], "y": s % 2})
    return found
