"""Invocations on their way: each goes out, and again, until its proplet has answered or says that it has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from manager.fleet.proplets import Proplets
from manager.latent.calls import id_of_turn, invocation_of
from manager.state.ledger import Ledger
from manager.state.records import Invocation
from manager.state.states import InvocationState
from manager.work.dialects import Dialect
from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.messages import Alive
from swashplate.service import Tasks

log = logging.get("invocations")

AGAIN_S, AGAIN_MOST_S = 2.0, 30.0


class InvokeSender:
    def __init__(self, bus: Bus, ledger: Ledger, proplets: Proplets, dialect_of: Callable[[str], Dialect]) -> None:
        self._bus = bus
        self._ledger = ledger
        self._proplets = proplets
        self._dialect_of = dialect_of
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unsent: set[str] = set()
        self._work = Tasks(log)
        self.on_impossible: Callable[[Invocation, SwashplateError], Any] = lambda _invocation, _error: None
        """Called when it can never be brought there."""

    async def open(self) -> None:
        self._bus.on_connect(self._everything_again)
        self._proplets.on_join(self._joined)
        self._proplets.on_report(self._reported)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        await self._work.close()

    def expect(self, invocation_id: str) -> None:
        """It is to be sent once it is durable that it is."""
        self._unsent.add(invocation_id)

    def is_unsent(self, invocation_id: str) -> bool:
        """Has it certainly not left?"""
        return invocation_id in self._unsent

    def begin(self, invocation_id: str, *, wait: float | None = None) -> None:
        """Send it now, and again after ``wait`` seconds, doubling."""
        wait = AGAIN_S if wait is None else wait
        self._cancel(invocation_id)
        invocation = self._ledger.invocation(invocation_id)
        if invocation is None or invocation.state is not InvocationState.RUNNING:
            return
        assert invocation.proplet_id is not None
        if invocation_id not in self._unsent and not self._dialect_of(invocation.proplet_id).confirms:
            return  # one who cannot tell a call from its repetition would run it twice
        self._again_in(invocation_id, wait)
        if self._bus.connected:
            self._work.start(self._send(invocation), f"invoke {invocation.task_id}")

    def settle(self, invocation_id: str) -> None:
        """It was answered, or is not wanted any more."""
        self._unsent.discard(invocation_id)
        self._cancel(invocation_id)

    def _cancel(self, invocation_id: str) -> None:
        timer = self._timers.pop(invocation_id, None)
        if timer is not None:
            timer.cancel()

    def _again_in(self, invocation_id: str, wait: float) -> None:
        self._timers[invocation_id] = asyncio.get_running_loop().call_later(wait, self._again, invocation_id, wait)

    def _again(self, invocation_id: str, wait: float) -> None:
        self.begin(invocation_id, wait=min(2 * wait, AGAIN_MOST_S))

    async def _everything_again(self) -> None:
        for invocation_id in list(self._timers):
            self.begin(invocation_id)

    async def _joined(self, proplet_id: str) -> None:
        for invocation_id in list(self._timers):
            invocation = self._ledger.invocation(invocation_id)
            if invocation is not None and invocation.proplet_id == proplet_id:
                self.begin(invocation_id)

    async def _reported(self, proplet_id: str, said: Alive) -> None:
        """What it says that it has needs no repetition for a while."""
        for said_id in said.invocations if self._timers else ():
            invocation = self._ledger.invocation(invocation_of(said_id))
            if invocation is None or invocation.proplet_id != proplet_id or said_id != id_of_turn(invocation):
                continue
            if invocation.id in self._timers:
                self._cancel(invocation.id)
                self._again_in(invocation.id, AGAIN_MOST_S)

    async def _send(self, invocation: Invocation) -> None:
        task = self._ledger.task(invocation.task_id)
        if task is None or self._ledger.invocation(invocation.id) is not invocation:
            return
        assert invocation.proplet_id is not None
        self._unsent.discard(invocation.id)
        try:
            await self._dialect_of(invocation.proplet_id).invoke(task, invocation)
        except (BusError, UnavailableError) as error:
            if error.status == UnavailableError.status:
                log.warning("invocation not published, trying again", task_id=task.id, error=error.sentence)
            else:
                self.on_impossible(invocation, error)
        except SwashplateError as error:
            self.on_impossible(invocation, error)
