"""A clock that tells the same time in every run: it starts at a fixed moment and advances only when it is asked.

Layouts are those of https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md.
"""

from __future__ import annotations

import struct

import wasmtime

from proplet.sandbox.preview1.errno import BADF, INVAL, NOMEM, SUCCESS
from proplet.sandbox.preview1.memory import GuestMemory, u32

START_NS = 946_684_800 * 10**9
"""2000-01-01T00:00:00Z."""
STEP_NS = 1_000_000
"""By which it advances with every look at it, so that a loop that waits for a time ends."""
FURTHEST_NS = 1 << 62

MOST_SUBSCRIPTIONS = 10_000
"""Each costs this process some hundred bytes; wasmtime has a limit too, and the same errno."""

REALTIME, MONOTONIC = 0, 1
ABSOLUTE = 1
CLOCK = 0

SUBSCRIPTION = struct.Struct("<QB7xI4xQ8xH6x")
EVENT = struct.Struct("<QHB5xQ8x")


class SteppedClock:
    """Nanoseconds; the monotonic clock starts at 0."""

    def __init__(self) -> None:
        self._elapsed = 0

    def clock_res_get(self, caller: wasmtime.Caller, clock: int, at: int) -> int:
        if clock not in {REALTIME, MONOTONIC}:
            return BADF
        GuestMemory(caller).write_int(u32(at), STEP_NS, 8)
        return SUCCESS

    def clock_time_get(self, caller: wasmtime.Caller, clock: int, _precision: int, at: int) -> int:
        if clock not in {REALTIME, MONOTONIC}:
            return BADF
        GuestMemory(caller).write_int(u32(at), self._elapsed + (START_NS if clock == REALTIME else 0), 8)
        self._advance(self._elapsed + STEP_NS)
        return SUCCESS

    def poll_oneoff(self, caller: wasmtime.Caller, wanted: int, events: int, count: int, stored: int) -> int:
        """A sleep ends at once, and the clock is then where it would have been. A file is always ready."""
        memory = GuestMemory(caller)
        count = u32(count)
        if count == 0:
            return INVAL
        if count > MOST_SUBSCRIPTIONS:
            return NOMEM
        asked = list(SUBSCRIPTION.iter_unpack(memory.read(u32(wanted), count * SUBSCRIPTION.size)))
        times = {}
        for at, (_, kind, clock, timeout, flags) in enumerate(asked):
            if kind != CLOCK:
                continue
            if clock not in {REALTIME, MONOTONIC}:
                return BADF
            times[at] = self._deadline(clock, timeout, absolute=bool(flags & ABSOLUTE))
        if len(times) == count:
            self._advance(min(times.values()))
        ready = [
            EVENT.pack(user, SUCCESS, kind, 0 if kind == CLOCK else 1)
            for at, (user, kind, *_) in enumerate(asked)
            if kind != CLOCK or times[at] <= self._elapsed
        ]
        memory.write(u32(events), b"".join(ready))
        memory.write_int(u32(stored), len(ready), 4)
        return SUCCESS

    def _deadline(self, clock: int, timeout: int, *, absolute: bool) -> int:
        if not absolute:
            return min(self._elapsed + timeout, FURTHEST_NS)
        return min(timeout - (START_NS if clock == REALTIME else 0), FURTHEST_NS)

    def _advance(self, to: int) -> None:
        self._elapsed = min(max(self._elapsed, to), FURTHEST_NS)
