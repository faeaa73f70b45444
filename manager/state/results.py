"""A result as it is stored: JSON in which, in place of a value, a reference to a file may stand.

A reference begins and ends with control characters, which JSON does not have: no result can be taken for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

_REFERENCE = re.compile("\x02([^\x02\x03]*)\x03")


class Reference(NamedTuple):
    """The large result of an attempt or invocation: a file of JSON with this digest, of ``size`` bytes, in a folder ``place``
    of the task's.
    """

    task_id: str
    place: str
    digest: str
    size: int

    def text(self) -> str:
        return f"\x02{self.task_id} {self.place} {self.digest} {self.size}\x03"


def is_whole(stored: str | None) -> bool:
    """Is everything of it here?"""
    return stored is None or "\x02" not in stored


def parts(stored: str) -> list[str | Reference]:
    """What stands between the references, and the references, in turn."""
    found: list[str | Reference] = []
    for at, text in enumerate(_REFERENCE.split(stored)):
        if at % 2:
            task_id, place, digest, size = text.split(" ")
            found.append(Reference(task_id, place, digest, int(size)))
        elif text:
            found.append(text)
    return found


def size(stored: str | None) -> int:
    """Bytes of the JSON, files and all."""
    if stored is None or is_whole(stored):
        return len(stored or "")
    return sum(part.size if isinstance(part, Reference) else len(part.encode()) for part in parts(stored))


def together(results: Mapping[str, str | None]) -> str:
    """One JSON object of several stored results."""
    return "{" + ", ".join(f"{json.dumps(name)}: {stored or 'null'}" for name, stored in results.items()) + "}"
