"""The life of an attempt after it was begun: accepted, ended once, replaced or not, stopped.

The only room that changes attempts that proplets have. The rest follows: the ledger remembers, the load and the lease are
settled, and whoever follows tasks is told when it is durable.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from manager.fleet.complaints import Complaints
from manager.fleet.proplets import Proplets
from manager.state import states
from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey, Task
from manager.state.states import AttemptEvent, AttemptState, TaskEvent
from manager.work import runs
from manager.work.dispatch import Dispatch
from manager.work.followers import Followers
from manager.work.leases import Leases
from manager.work.load import Load
from manager.work.offers import Offers
from manager.work.runs import Outcome
from manager.work.stops import STOP_S, Stops, stopped
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import Alive

log = logging.get("attempts")

TOLD_AGAIN_S = 600.0


class Attempts:
    def __init__(
        self,
        ledger: Ledger,
        proplets: Proplets,
        load: Load,
        dispatch: Dispatch,
        offers: Offers,
        leases: Leases,
        stops: Stops,
        followers: Followers,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._proplets = proplets
        self._load = load
        self._dispatch = dispatch
        self._offers = offers
        self._leases = leases
        self._stops = stops
        self.followers = followers
        self._clock = clock
        self._complaints = Complaints()
        self._stages: dict[AttemptKey, str] = {}
        self.ended: Counter[str] = Counter()
        """How many ended, by state."""
        self.consequences: list[Callable[[Task], Any]] = []
        """Called when a task has ended, with what follows from it to be put before that is written."""
        self.on_ready: Callable[[Task, Attempt], Any] = lambda _task, _attempt: None
        self.on_gone: list[Callable[[Task, Attempt], Any]] = []
        """Called when an attempt has ended, whatever becomes of its task."""

    async def open(self) -> None:
        """Hear of all that concerns attempts; call before the bus connects."""
        self._proplets.on_join(self._joined)
        self._proplets.on_report(self._reported)
        self._proplets.on_change(self._changed)
        self._offers.on_taken = self._taken
        self._offers.on_impossible = self._impossible
        self._dispatch.on_offered = self._leases.begin
        self._dispatch.on_impossible = self._impossible
        self._leases.on_over = self.give_up
        self._leases.on_unknown = self._offers.begin
        self._leases.on_unwanted = self._stops.tell_unwanted
        self._stops.on_over = self.finish

    async def close(self) -> None:
        self._complaints.close()

    def recover(self, ended: Sequence[Task]) -> None:
        """Take up every attempt that had not ended when the process did; ``ended`` are tasks that ended shortly before."""
        for proplet in self._proplets.list():
            self._load.refresh(proplet.id)
        for attempt in sorted(self._ledger.open_attempts(), key=lambda each: each.number):
            task = self._ledger.task(attempt.task_id)
            assert task is not None
            if attempt.state is AttemptState.QUEUED:
                self._dispatch.enqueue(task, attempt)
                continue
            self._load.give(task, attempt)
            self._leases.begin(attempt)
            if attempt.state is AttemptState.READY:
                self._load.idle(attempt)
                self.on_ready(task, attempt)
            if attempt.stop_at is not None:
                self._stops.begin(attempt)
            elif attempt.state is AttemptState.OFFERED:
                self._offers.begin(attempt.key)
        self._dispatch.place()
        for task in ended:
            self.followers.ended(task)

    async def interrupt_everything(self) -> None:
        """Stop whatever is active, and wait until each has ended; the proplets have ``STOP_S`` to say so."""
        for task in self._ledger.active_tasks():
            if not task.stopping:
                self.stop(task)
        everything = asyncio.gather(*(self.followers.end_of(task.id) for task in self._ledger.active_tasks()))
        await asyncio.wait([everything], timeout=2 * STOP_S)

    def accepted_by(self, proplet_id: str) -> list[AttemptKey]:
        """What this proplet has accepted and not ended."""
        found = [self._ledger.attempt(key) for key in self._load.held_by(proplet_id)]
        return [attempt.key for attempt in found if attempt is not None and attempt.state.held]

    def stage(self, key: AttemptKey) -> str:
        """What its proplet last said that it does with it."""
        attempt = self._ledger.attempt(key)
        ready = attempt is not None and attempt.state is AttemptState.READY
        return "ready" if ready else self._stages.get(key, "")

    # Beginning and stopping.

    def begin(self, task: Task, targets: Sequence[str | None]) -> Task:
        """The next run of ``task``, put and on its way; raises ``IllegalEventError`` when it is active."""
        task, attempts = runs.begin(task, targets, self._clock())
        self._ledger.put(task, *attempts)
        for attempt in attempts:
            self._dispatch.enqueue(task, attempt)
        self._dispatch.place()
        self.followers.started(task)
        return task

    def reprioritise(self, task: Task) -> None:
        self._dispatch.reprioritise(task)
        self._dispatch.place()

    def stop(self, task: Task) -> None:
        """End an active task: at once where no proplet has it, else when its proplet says so, or ``STOP_S`` later."""
        task = task.changed(stopping=True, updated_at=self._clock())
        self._ledger.put(task)
        for attempt in self._ledger.attempts_of(task.id):
            if not attempt.state.ended:
                self._stop(attempt)

    def move(self, attempt: Attempt) -> None:
        """End an attempt of a standing task where it is, so that another one follows elsewhere; nothing when it is under way."""
        if attempt.stop_at is None and not attempt.state.ended and attempt.state is not AttemptState.QUEUED:
            self._stop(attempt)

    def _stop(self, attempt: Attempt) -> None:
        key = attempt.key
        if attempt.state is AttemptState.QUEUED:
            self.finish(key, stopped())
            return
        attempt = attempt.changed(stop_at=attempt.stop_at or self._clock())
        self._ledger.put(attempt)
        if self._stops.are_confirmed(attempt):
            self._ledger.then(lambda: self._stops.begin(attempt))
        else:
            # Told all the same: the start may have reached it.
            self.finish(key, stopped())
            self._ledger.then(lambda: self._stops.tell(attempt))

    # What becomes of proplets.

    async def _joined(self, proplet_id: str) -> None:
        self._load.reported(proplet_id)
        self._load.refresh(proplet_id)
        self._offers.again(proplet_id)

    async def _changed(self, proplet_id: str) -> None:
        self._load.refresh(proplet_id)

    async def _reported(self, proplet_id: str, said: Alive) -> None:
        self._leases.heard(self._proplets.get(proplet_id), said)
        self._load.reported(proplet_id)

    # What becomes of an attempt that a proplet has.

    def progressed(self, sender: str, key: AttemptKey, stage: str) -> None:
        """Its proplet says what it does with it now."""
        attempt = self._ledger.attempt(key)
        if attempt is not None and attempt.proplet_id == sender and not attempt.state.ended:
            self._stages[key] = stage

    def accepted(self, sender: str, key: AttemptKey, *, ready: bool = False) -> None:
        """Its proplet has it, or has deployed it."""
        task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
        event = AttemptEvent.READY if ready else AttemptEvent.ACCEPTED
        if task is None or attempt is None or attempt.proplet_id != sender:
            self._complaints.warn("accepted what it was not given, or what has ended", sender, task_id=key.task_id)
            return
        self._offers.settle(key)
        if (attempt.state, event) not in states.ATTEMPT:
            return
        now = self._clock()
        attempt = attempt.changed(
            state=states.next_attempt(attempt.state, event), accepted_at=attempt.accepted_at or now
        )
        running = states.next_task(task.state, TaskEvent.ACCEPTED)
        task = task.changed(state=running, updated_at=now, started_at=task.started_at or now)
        self._ledger.put(task, attempt)
        if ready:
            self._ledger.then(lambda: self._ready(key), about=task.id)

    def _ready(self, key: AttemptKey) -> None:
        """That it is ready is durable now; it may have ended while the disk took its time. Calls that waited for it come first."""
        task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
        if task is not None and attempt is not None and attempt.state is AttemptState.READY:
            self._load.idle(attempt)
            self.on_ready(task, attempt)

    def _taken(self, proplet_id: str, key: AttemptKey) -> None:
        """The start is with a proplet that says no more than how it ends."""
        task = self._ledger.task(key.task_id)
        self.accepted(proplet_id, key, ready=task is not None and task.spec.latent)

    def _impossible(self, key: AttemptKey, error: SwashplateError) -> None:
        self.finish(key, Outcome(AttemptEvent.FAILED, None, error.sentence, error.code, error.retryable))

    def give_up(self, key: AttemptKey, outcome: Outcome) -> None:
        """End it whatever its proplet does, which is told, should it still be there."""
        attempt = self._ledger.attempt(key)
        if attempt is not None and attempt.proplet_id is not None and not attempt.state.ended:
            self._ledger.then(lambda: self._stops.tell(attempt))
        self.finish(key, outcome)

    def finish(self, key: AttemptKey, outcome: Outcome, *, sender: str | None = None) -> None:
        """Record how an attempt ended, once, and go on with its task. Only the proplet that holds it may say so."""
        attempt, task = self._ledger.attempt(key), self._ledger.task(key.task_id)
        if attempt is None or task is None or not task.state.active:
            log.debug("the attempt had ended already", task_id=key.task_id, attempt=key.number, proplet_id=sender)
            return
        if sender is not None and attempt.proplet_id != sender:
            self._complaints.warn("result of an attempt that it was not given", sender, task_id=key.task_id)
            return
        if (attempt.state, outcome.event) not in states.ATTEMPT:
            log.info("attempt had already ended", task_id=key.task_id, attempt=key.number, state=str(attempt.state))
            return
        if task.stopping and outcome.code == "proplet_restarted":
            outcome = stopped()  # what was asked for: it runs no more, and never said how it would have ended
        now = self._clock()
        if sender is not None and attempt.accepted_at is None and outcome.event is not AttemptEvent.DENIED:
            # What ends at once is not said to have been accepted before.
            attempt = attempt.changed(accepted_at=attempt.offered_at)
            task = task.changed(started_at=task.started_at or attempt.offered_at)
        ended = runs.ended(attempt, outcome, now)
        self.ended[ended.state] += 1
        others = [each for each in self._ledger.attempts_of(key.task_id) if each.number != key.number]
        after, following = runs.follow(task, ended, outcome, others, now)
        self._ledger.put(after, ended)
        self._settle(task, ended)
        if following is not None:
            log.warning("attempt ended, another follows", task_id=key.task_id, attempt=key.number, error=outcome.error)
            self._ledger.put(following)
            self._dispatch.enqueue(after, following)
        elif not after.state.active:
            for consequence in self.consequences:
                consequence(after)
            self.followers.ended(after)
        self._dispatch.place()

    def _settle(self, task: Task, attempt: Attempt) -> None:
        """Nothing of an ended attempt is left but its record."""
        key = attempt.key
        self._dispatch.withdraw(key)
        self._offers.settle(key)
        self._leases.settle(key)
        self._stops.settle(key)
        self._load.take_back(task, attempt)
        self._stages.pop(key, None)
        for callback in self.on_gone:
            callback(task, attempt)
