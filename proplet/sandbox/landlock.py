"""Which files a process that runs or compiles a guest may touch, by Landlock, the kernel's: those of its work and no others.

It is for a guest that broke out of the runtime, as the filter of ``confinement``; a process that is under it cannot look
into another either, by ``/proc`` or otherwise. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Mapping

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
ASK_VERSION, PATH_BENEATH = 1, 1
FIRST_VERSION = 2
"""The first one lets nobody rename or link from one directory into another."""
RULESET, RULE = struct.Struct("=Q"), struct.Struct("=Qi")

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE = (
    1 << place for place in (0, 1, 2, 3, 4, 5, 7, 8, 12, 13, 14)
)
KNOWN = {2: 14, 3: 15, 5: 16}
"""How many rights there are from which version on; all are withheld but what is allowed."""

LIST = READ_DIR
READ = READ_FILE | READ_DIR
USE = READ | REMOVE_FILE
WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER
OF_A_FILE = WRITE_FILE | READ_FILE | TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def version() -> int:
    """0 where the kernel has none, or none that can be used."""
    found: int = _libc.syscall(CREATE_RULESET, None, 0, ASK_VERSION)
    return found if found >= FIRST_VERSION else 0


def ruleset(allowed: Mapping[str, int]) -> int:
    """A descriptor for ``restrict``; ``allowed`` are rights below a path, or to a file, and what is not there is left out.

    Raises ``OSError``.
    """
    handled = (1 << max(count for since, count in KNOWN.items() if since <= version())) - 1
    made = _checked(_libc.syscall(CREATE_RULESET, RULESET.pack(handled), RULESET.size, 0))
    for path, rights in allowed.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            possible = rights & handled & (-1 if os.path.isdir(path) else OF_A_FILE)  # noqa: PTH112  # as text
            _checked(_libc.syscall(ADD_RULE, made, PATH_BENEATH, RULE.pack(possible, place), 0))
        finally:
            os.close(place)
    return made


def restrict(made: int) -> None:
    """Of this process, for good; it must have no new privileges. Raises ``OSError``."""
    _checked(_libc.syscall(RESTRICT_SELF, made, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return result
