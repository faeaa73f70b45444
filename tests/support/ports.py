"""Ports for tests: free, below those that the kernel gives to outgoing connections, and to each test process its own.

Nothing keeps a free port free until somebody listens there; so no two processes that run tests at once draw from the same
ones, and none draws one twice before it has drawn all.
"""

from __future__ import annotations

import itertools
import os
import random

from swashplate import ports
from swashplate.stack import services

_SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SHARES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_SINGLE = range(10_000, 12_800)[_SHARE::_SHARES]
_OFFSETS = range(11_000, 23_500, 100)[_SHARE::_SHARES]
"""What a whole stack adds to its ports; they begin where the single ones end."""

_shuffled = itertools.cycle(random.sample(_SINGLE, len(_SINGLE)))


def free_port() -> int:
    return next(filter(ports.is_free, _shuffled))


def free_offset() -> int:
    """Far from the default ports, so that tests run beside a running stack."""
    for offset in random.sample(_OFFSETS, len(_OFFSETS)):  # another test run, started just now, does not take the same
        if all(ports.is_free(port + offset) for port in services.ALL_PORTS):
            return offset
    raise AssertionError("no free ports")
