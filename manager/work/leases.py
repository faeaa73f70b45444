"""How long a proplet may keep an attempt: until its deadline, and no longer than it is heard of when somebody else could
do it. Heartbeats say what a proplet runs; where that is not what it should run, it is told again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from manager.fleet.proplet import Proplet
from manager.fleet.proplets import Proplets
from manager.state import store
from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey, Task
from manager.state.states import AttemptEvent, AttemptState
from manager.work.load import Load
from manager.work.runs import Outcome
from swashplate import logging
from swashplate.bus import Bus
from swashplate.database import Database
from swashplate.messages import Alive
from swashplate.service import Tasks

log = logging.get("leases")

LOOK_AGAIN_S = 1.0
HEARING_S = 5.0
"""How long after a connect what was said meanwhile may still be on its way. Until then nobody is held to be silent or late:
it is the manager that could not hear.
"""
STEP_S = 1.0
"""A machine's clock that went further than time did was set, or the machine slept: nothing follows from that."""
STRANGE_S = 1.0
"""How long a proplet may go on naming what it does not hold, before that is looked into: its result may be on the way, or
our acknowledgement of it."""
OVERDUE = Outcome(AttemptEvent.EXPIRED, None, "the lease ended without a result", "lease_expired", retryable=True)
SILENT = Outcome(AttemptEvent.EXPIRED, None, "its proplet is not heard of any more", "proplet_lost", retryable=True)
GONE = Outcome(AttemptEvent.FAILED, None, "its proplet is not heard of any more", "proplet_lost")
"""A broadcast would wait for ever for somebody who never comes back."""
UNTAKEN = Outcome(
    AttemptEvent.EXPIRED, None, "its proplet went offline before it took it", "proplet_lost", retryable=True, free=True
)


class Leases:
    def __init__(
        self,
        bus: Bus,
        database: Database,
        ledger: Ledger,
        proplets: Proplets,
        load: Load,
        *,
        silence_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._database = database
        self._ledger = ledger
        self._proplets = proplets
        self._load = load
        self._silence_s = silence_s
        self._clock = clock
        self._hearing_since = clock()
        self._ahead = clock() - asyncio.get_running_loop().time()
        """How far the machine's clock is ahead of one that is never set."""
        self._timers: dict[AttemptKey, asyncio.TimerHandle] = {}
        self._missing: dict[AttemptKey, int] = {}
        """How many heartbeats in a row did not list an attempt that was accepted."""
        self._strange: dict[str, set[AttemptKey]] = {}
        """What the last heartbeat of each proplet named that it is not known to hold."""
        self._looks: dict[str, asyncio.TimerHandle] = {}
        self._work = Tasks(log)
        self.on_over: Callable[[AttemptKey, Outcome], Any] = lambda _key, _outcome: None
        self.on_unknown: Callable[[AttemptKey], Any] = lambda _key: None
        """Called for an accepted attempt of which its proplet knows nothing."""
        self.on_unwanted: Callable[[str, AttemptKey], Any] = lambda _proplet, _key: None
        """Called for an attempt that a proplet runs though it was stopped or replaced."""

    async def open(self) -> None:
        """Call before the bus connects."""
        self._bus.on_connect(self._connected)
        self._work.start(self._watch(), "silent proplets")

    async def close(self) -> None:
        for timer in (*self._timers.values(), *self._looks.values()):
            timer.cancel()
        await self._work.close()

    async def _connected(self) -> None:
        self._hearing_since = self._clock()

    def _deaf(self) -> float:
        """Seconds for which nothing can be concluded from not having heard something."""
        self._notice_steps()
        if not self._bus.connected:
            return HEARING_S
        return self._hearing_since + HEARING_S - self._clock()

    def begin(self, attempt: Attempt) -> None:
        if attempt.deadline is not None:
            assert attempt.offered_at is not None
            # Not longer than all of it, should the machine's clock have been set back.
            left = min(max(0.0, attempt.deadline - self._clock()), attempt.deadline - attempt.offered_at)
            self._timers[attempt.key] = asyncio.get_running_loop().call_later(left, self._overdue, attempt.key)

    def settle(self, key: AttemptKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._missing.pop(key, None)

    def _overdue(self, key: AttemptKey) -> None:
        if (deaf := self._deaf()) > 0:
            self._timers[key] = asyncio.get_running_loop().call_later(deaf, self._overdue, key)
        else:
            self.on_over(key, OVERDUE)

    # Proplets that are silent.

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            if self._deaf() > 0:
                continue
            for proplet_id in self._load.holders():
                proplet = self._proplets.known(proplet_id)
                if proplet is not None and self._is_silent(proplet):
                    self._silent(proplet)
            self._nobody_comes()

    def _is_silent(self, proplet: Proplet) -> bool:
        return self.silent_for(proplet) > max(self._silence_s, self._proplets.patience(proplet))

    def silent_for(self, proplet: Proplet) -> float:
        """Seconds since it was heard last, of those in which it could have been heard."""
        self._notice_steps()
        return self._clock() - max(proplet.last_seen, self._hearing_since) if self._bus.connected else 0.0

    def _notice_steps(self) -> None:
        ahead = self._clock() - asyncio.get_running_loop().time()
        if abs(ahead - self._ahead) > STEP_S:
            self._hearing_since = self._clock()
        self._ahead = ahead

    def _silent(self, proplet: Proplet) -> None:
        for key in self._load.held_by(proplet.id):
            task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
            if task is not None and attempt is not None:
                outcome = when_silent(task, attempt)
                if outcome is not None:
                    self.on_over(key, outcome)

    def _nobody_comes(self) -> None:
        """Broadcasts end without those that were deleted, or are silent, before they were given it."""
        for attempt in self._ledger.open_attempts():
            target = attempt.target
            if attempt.state is not AttemptState.QUEUED or target is None:
                continue
            task = self._ledger.task(attempt.task_id)
            if task is None or not task.spec.broadcast or task.standing:
                continue
            proplet = self._proplets.known(target)
            if proplet is None or self._is_silent(proplet):
                self.on_over(attempt.key, GONE)

    # What heartbeats say.

    def heard(self, proplet: Proplet, said: Alive) -> None:
        """Compare what it runs with what it was given."""
        running = {AttemptKey(ref.task_id, ref.attempt) for ref in said.running}
        held = set(self._load.held_by(proplet.id))
        for key in held - running:
            attempt = self._ledger.attempt(key)
            if attempt is not None and attempt.state.held:
                self._missing[key] = self._missing.get(key, 0) + 1
                if self._missing[key] >= 2:
                    del self._missing[key]
                    self.on_unknown(key)
        for key in held & running if self._missing else ():
            self._missing.pop(key, None)
        strange = running - held
        if strange:
            self._strange[proplet.id] = strange
            self._look_soon(proplet.id, strange)
        else:
            self._strange.pop(proplet.id, None)

    def _look_soon(self, proplet_id: str, strange: set[AttemptKey]) -> None:
        if proplet_id not in self._looks:
            later = asyncio.get_running_loop().call_later(STRANGE_S, self._look, proplet_id, strange)
            self._looks[proplet_id] = later

    def _look(self, proplet_id: str, strange: set[AttemptKey]) -> None:
        del self._looks[proplet_id]
        named = self._strange.pop(proplet_id, set())
        if still := strange & named:
            self._work.start(self._look_at(proplet_id, still), f"what {proplet_id} runs")
        if others := named - strange:
            self._strange[proplet_id] = others
            self._look_soon(proplet_id, others)

    async def _look_at(self, proplet_id: str, keys: set[AttemptKey]) -> None:

        def read(db: Connection) -> list[tuple[AttemptKey, Attempt | None, Task | None]]:
            return [(key, store.get_attempt(db, key), store.get_task(db, key.task_id)) for key in keys]

        for key, attempt, task in await self._database.run(read):
            if unwanted(task, attempt):
                self.on_unwanted(proplet_id, key)


def when_silent(task: Task, attempt: Attempt) -> Outcome | None:
    """What the silence of its proplet means for an attempt; None when the deadline will tell.

    A proplet that was cut off may still bring the result. It is only worth giving up when another one can take over.
    """
    movable = attempt.target is None
    if attempt.state is AttemptState.OFFERED and movable:
        return UNTAKEN
    if task.standing and attempt.state.held and movable:
        return SILENT
    if attempt.state.held and movable and attempt.retry < task.spec.retries:
        return SILENT
    return None


def unwanted(task: Task | None, attempt: Attempt | None) -> bool:
    """Should a proplet that runs this attempt stop it?"""
    if task is None or attempt is None:
        return True
    if attempt.state is AttemptState.INTERRUPTED:
        return True
    # What was learned still counts for its round, whoever else was asked meanwhile.
    return attempt.state is AttemptState.LOST and task.spec.kind != "federated"
