"""Attempts that are to stop: their proplets are told, and have a while to say that they did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey
from manager.state.states import AttemptEvent, AttemptState
from manager.work.dialects import Dialect
from manager.work.runs import Outcome
from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.service import Tasks

log = logging.get("stops")

STOP_S = 1.5
"""How long a proplet may take to say that it has stopped an attempt, before that is taken for granted."""


def stopped(reason: str = "stopped") -> Outcome:
    return Outcome(AttemptEvent.INTERRUPTED, None, reason, "stopped")


class Stops:
    """``dialect_of`` says how the proplet with this id is spoken to."""

    def __init__(
        self,
        bus: Bus,
        ledger: Ledger,
        dialect_of: Callable[[str], Dialect],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._dialect_of = dialect_of
        self._clock = clock
        self._timers: dict[AttemptKey, asyncio.TimerHandle] = {}
        self._work = Tasks(log)
        self.on_over: Callable[[AttemptKey, Outcome], Any] = lambda _key, _outcome: None
        """Called for an attempt whose proplet has not said in time that it stopped."""

    async def open(self) -> None:
        """Call before the bus connects."""
        self._bus.on_connect(self._everything_again)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        await self._work.close()

    def are_confirmed(self, attempt: Attempt) -> bool:
        """Will its proplet say that it has stopped? Only one that has accepted it knows of it."""
        return attempt.state.held and self._dialect_of(attempt.proplet_id or "").confirms

    def begin(self, attempt: Attempt) -> None:
        """Tell its proplet, which has until ``STOP_S`` after the attempt's ``stop_at`` to confirm it."""
        current = self._ledger.attempt(attempt.key)
        if current is None or current.state.ended:  # while it was written that it is to stop
            return
        self.tell(attempt)
        assert attempt.stop_at is not None
        left = min(max(0.0, attempt.stop_at + STOP_S - self._clock()), STOP_S)
        self.settle(attempt.key)
        self._timers[attempt.key] = asyncio.get_running_loop().call_later(left, self._overdue, attempt.key)

    def _overdue(self, key: AttemptKey) -> None:
        self.on_over(key, stopped("stopped; its proplet has not confirmed that"))

    def settle(self, key: AttemptKey) -> None:
        """It has ended."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _everything_again(self) -> None:
        for key in self._timers:
            attempt = self._ledger.attempt(key)
            if attempt is not None:
                self.tell(attempt)

    def tell(self, attempt: Attempt) -> None:
        """Once: whoever misses it is told again when it says that it still runs this."""
        self._work.start(self._send(attempt), f"stop {attempt.task_id}")

    def tell_unwanted(self, proplet_id: str, key: AttemptKey) -> None:
        """It runs what was stopped or replaced."""
        log.info("told to stop what it should not run", proplet_id=proplet_id, task_id=key.task_id, attempt=key.number)
        self.tell(Attempt(key.task_id, key.number, 0, AttemptState.INTERRUPTED, 0.0, proplet_id=proplet_id))

    async def _send(self, attempt: Attempt) -> None:
        assert attempt.proplet_id is not None
        if not self._bus.connected:
            return
        try:
            await self._dialect_of(attempt.proplet_id).stop(attempt)
        except BusError as error:
            log.warning("stop not published", task_id=attempt.task_id, error=error.sentence)
