"""The machine's clock and its randomness, replaced while a simulation runs: what reads them reads the simulation's."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest import mock

from swashplate.testing.loop import VirtualLoop

EPOCH = 1_800_000_000.0
"""The wall clock when the loop's time is 0: 2027-01-15 08:00:00 UTC."""


def _no_sleep(seconds: float) -> NoReturn:
    raise RuntimeError(f"time.sleep({seconds:g}) in a simulation: use asyncio.sleep")


@contextlib.contextmanager
def virtual_machine(loop: VirtualLoop, source: random.Random, *, epoch: float = EPOCH) -> Iterator[None]:
    """``time.time``, ``time.monotonic``, ``os.urandom`` (and so ``uuid``, ``secrets``) and ``random`` say what follows from
    the loop, ``epoch`` (what the wall clock shows when the loop's time is 0) and ``source`` alone. A function taken from its module before (``from time import time``) is not replaced.
    """

    def wall_clock() -> float:
        return epoch + loop.time()

    state = random.getstate()
    replaced: list[Any] = [
        mock.patch.object(time, "time", wall_clock),
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(time, "sleep", _no_sleep),
        mock.patch.object(os, "urandom", source.randbytes),
        mock.patch.object(random, "_urandom", source.randbytes),
    ]
    with contextlib.ExitStack() as stack:
        for each in replaced:
            stack.enter_context(each)
        random.seed(source.random())
        try:
            yield
        finally:
            random.setstate(state)
