"""Starts on their way: each goes out, and again, until its proplet has said what it thinks of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from manager.state.ledger import Ledger
from manager.state.records import AttemptKey
from manager.state.states import AttemptState
from manager.work.dialects import Dialect
from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.service import Tasks

log = logging.get("offers")

AGAIN_S, AGAIN_MOST_S = 2.0, 30.0


class Offers:
    """``dialect_of`` says how the proplet with this id is spoken to; asked each time, as it may change."""

    def __init__(self, bus: Bus, ledger: Ledger, dialect_of: Callable[[str], Dialect]) -> None:
        self._bus = bus
        self._ledger = ledger
        self._dialect_of = dialect_of
        self._timers: dict[AttemptKey, asyncio.TimerHandle] = {}
        self._due: list[tuple[AttemptKey, bool]] = []
        """What is to go out in this turn of the loop, and whether it went out before."""
        self._work = Tasks(log)
        self.on_taken: Callable[[str, AttemptKey], Any] = lambda _proplet, _key: None
        """Called when the start is with a proplet that will not say so itself."""
        self.on_impossible: Callable[[AttemptKey, SwashplateError], Any] = lambda _key, _error: None
        """Called when it can never be brought there."""

    async def open(self) -> None:
        self._bus.on_connect(self._everything_again)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        await self._work.close()

    def begin(self, key: AttemptKey, *, wait: float | None = None) -> None:
        """Send the start of an offered attempt now, and again after ``wait`` seconds, doubling."""
        self.settle(key)
        again, wait = wait is not None, wait or AGAIN_S
        self._timers[key] = asyncio.get_running_loop().call_later(wait, self._again, key, wait)
        if not self._bus.connected:
            return  # everything goes out once it is; the queue of a bus would bring it late, twice
        if not self._due:
            self._work.start(self._send_due(), "starts")
        self._due.append((key, again))

    def settle(self, key: AttemptKey) -> None:
        """It was answered, or is not wanted any more."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _again(self, key: AttemptKey, wait: float) -> None:
        self.begin(key, wait=min(2 * wait, AGAIN_MOST_S))

    def again(self, proplet_id: str) -> None:
        """A proplet is back: what it has not answered yet goes out at once."""
        for key in list(self._timers):
            attempt = self._ledger.attempt(key)
            if attempt is not None and attempt.proplet_id == proplet_id:
                self.begin(key)

    async def _everything_again(self) -> None:
        for key in list(self._timers):
            self.begin(key)

    async def _send_due(self) -> None:
        due, self._due = self._due, []
        for key, again in due:
            if self._waits(key):
                self._work.start(self._send(key, again=again), f"start {key.task_id}")
            else:
                await self._send(key, again=again)

    def _waits(self, key: AttemptKey) -> bool:
        """Does sending it take a while: for what it needs of others, or for the broker?"""
        task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
        if task is None or attempt is None or attempt.proplet_id is None:
            return False
        return bool(task.spec.depends_on) or not self._dialect_of(attempt.proplet_id).confirms

    async def _send(self, key: AttemptKey, *, again: bool) -> None:
        task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
        if task is None or attempt is None or attempt.proplet_id is None or attempt.state.ended:
            self.settle(key)
            return
        dialect = self._dialect_of(attempt.proplet_id)
        try:
            await dialect.start(task, attempt, again=again)
        except (BusError, UnavailableError) as error:
            if error.status != UnavailableError.status:
                self.on_impossible(key, error)
            else:
                log.warning("start not published, trying again", task_id=task.id, error=error.sentence)
        except SwashplateError as error:
            self.on_impossible(key, error)
        else:
            if not dialect.confirms and attempt.state is AttemptState.OFFERED:
                self.on_taken(attempt.proplet_id, key)
