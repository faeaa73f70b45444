"""From a run's first attempt to a proplet that is asked to take it: the image resolved, the queue, the choice."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey, Task
from manager.state.states import AttemptEvent, AttemptState, next_attempt
from manager.work import denials, placement
from manager.work.dialects import LEASE_GRACE_S
from manager.work.images import Images
from manager.work.load import Load, requirements_of
from manager.work.offers import Offers
from manager.work.placement import Constraint, Requirements, Strategy
from manager.work.queue import WaitingQueue
from manager.work.runs import RESTART_MOST_S
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.service import Tasks

log = logging.get("dispatch")

SMALL_FLEET = 100
FRESH_S = 1.0
AWAY_S = 15.0
"""How long a registry that does not answer is waited for, before it costs an attempt."""


class Dispatch:
    def __init__(
        self,
        ledger: Ledger,
        images: Images,
        load: Load,
        offers: Offers,
        *,
        strategy: Strategy = Strategy.LEAST_LOADED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._images = images
        self._load = load
        self._offers = offers
        self._strategy = strategy
        self._clock = clock
        self._queue = WaitingQueue()
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._later: dict[AttemptKey, asyncio.TimerHandle] = {}
        self._work = Tasks(log)
        self._soon: asyncio.Handle | None = None
        self._reasons: dict[tuple[Constraint, bool], str] = {}
        self._explained_at = 0.0
        self.on_offered: Callable[[Attempt], Any] = lambda _attempt: None
        """Called when an attempt was given to a proplet: its lease begins."""
        self.on_impossible: Callable[[AttemptKey, SwashplateError], Any] = lambda _key, _error: None
        """Called when an attempt cannot begin anywhere."""
        load.on_room = self._place_soon

    async def close(self) -> None:
        for handle in (*self._later.values(), *filter(None, [self._soon])):
            handle.cancel()
        await self._work.close()

    def enqueue(self, task: Task, attempt: Attempt) -> None:
        """``attempt`` waits for whatever it needs next; ``place`` then gives it to somebody."""
        now = self._clock()
        wait = min(attempt.not_before - now, RESTART_MOST_S)
        if wait > 0:
            self._look_again(attempt.key, wait)
        elif task.digest is None:
            if task.id not in self._resolving:
                self._resolving[task.id] = self._work.start(self._resolve(task), f"image of {task.id}")
        else:
            avoided = denials.avoided(self._ledger.attempts_of(task.id), attempt.target, now)
            self._queue.push(
                attempt.key,
                requirements_of(task, attempt.target, frozenset(avoided)),
                priority=task.spec.priority,
                created_at=attempt.created_at,
            )
            if (again := min(avoided.values(), default=math.inf)) < math.inf:
                self._look_again(attempt.key, again - now)

    def _look_again(self, key: AttemptKey, wait: float) -> None:
        self._later[key] = asyncio.get_running_loop().call_later(wait, self._in_time, key)

    def _in_time(self, key: AttemptKey) -> None:
        self._later.pop(key, None)
        self._enqueue_again(key)
        self.place()

    def _enqueue_again(self, key: AttemptKey) -> None:
        task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
        if task is not None and attempt is not None and attempt.state is AttemptState.QUEUED:
            self.enqueue(task, attempt)

    def withdraw(self, key: AttemptKey) -> None:
        """It waits no longer."""
        self._queue.remove(key)
        timer = self._later.pop(key, None)
        if timer is not None:
            timer.cancel()

    def reprioritise(self, task: Task) -> None:
        for attempt in self._ledger.attempts_of(task.id):
            self._queue.reprioritise(attempt.key, task.spec.priority)

    async def _resolve(self, task: Task) -> None:
        """What the reference means now. Whatever goes wrong ends the attempts that wait for it."""
        failure: SwashplateError | None = None
        try:
            patience = min(AWAY_S, task.spec.timeout_s / 4)
            binary = await self._images.resolve(task.spec.image_url, patience=patience)
        except SwashplateError as error:
            log.error("attempt cannot begin", task_id=task.id, image=task.spec.image_url, error=error.sentence)
            failure = error
        except Exception as error:
            log.exception("attempt cannot begin", task_id=task.id)
            failure = SwashplateError(f"internal error: {error!r}")
        finally:
            del self._resolving[task.id]
        current = self._ledger.task(task.id)
        if current is None or not current.state.active:
            return
        waiting = [each for each in self._ledger.attempts_of(task.id) if each.state is AttemptState.QUEUED]
        if failure is not None and current.run == task.run:
            for attempt in waiting:
                self.on_impossible(attempt.key, failure)
            return
        if failure is None and current.run == task.run:
            self._ledger.put(current.changed(digest=binary.digest, size=binary.size))
        for attempt in waiting:
            self._enqueue_again(attempt.key)
        self.place()

    def _place_soon(self) -> None:
        """Whoever is in the midst of a change finishes it before others are placed."""
        if self._soon is None and len(self._queue):
            self._soon = asyncio.get_running_loop().call_soon(self.place)

    def place(self) -> None:
        """Give whatever waits to whoever has room, in the order of the queue. When somebody has room anew, it is called."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if not self._load.ranking.ids or not len(self._queue):
            return
        room = set(self._load.ranking.ids)
        for waiting in self._queue.heads(room):
            key = AttemptKey(*waiting.key)
            task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
            if task is None or attempt is None or attempt.state is not AttemptState.QUEUED:
                self._queue.remove(key)
                continue
            # Asked each time: how long its like takes is known better than when it was put into the queue.
            wanted = waiting.requirements if self._patient(task) else replace(waiting.requirements, patient=False)
            chosen = self._load.ranking.choose(wanted, self._strategy)
            if chosen is None:
                continue
            self.withdraw(key)
            self._give(task, attempt, chosen)
            if chosen not in self._load.ranking.ids:
                room.discard(chosen)

    def _patient(self, task: Task) -> bool:
        return not task.standing and self._load.paces.short(task.digest)

    def _give(self, task: Task, attempt: Attempt, proplet_id: str) -> None:
        now = self._clock()
        offered = attempt.changed(
            state=next_attempt(attempt.state, AttemptEvent.PLACED),
            proplet_id=proplet_id,
            offered_at=now,
            deadline=None if task.standing else now + task.spec.timeout_s + LEASE_GRACE_S,
        )
        task = task.changed(proplet_id=None if task.spec.broadcast else proplet_id, updated_at=now)
        self._ledger.put(task, offered)
        self._load.give(task, offered)
        self.on_offered(offered)
        self._ledger.then(lambda: self._offers.begin(offered.key))

    @property
    def waiting(self) -> int:
        """How many attempts could begin, if only somebody took them."""
        return len(self._queue)

    def waiting_for(self, task: Task) -> str:
        """Why a task waits, in one sentence; empty when it does not."""
        waits = [each for each in self._ledger.attempts_of(task.id) if each.state is AttemptState.QUEUED]
        if not waits:
            return ""
        if task.id in self._resolving:
            return f"asking the proxy what {task.spec.image_url} is"
        first = waits[0]
        denied = denials.in_a_row(self._ledger.attempts_of(task.id), first.target)
        last = f"; {denied[-1].error}" if denied else ""
        now = self._clock()
        if first.not_before > now:
            return f"the next attempt begins in {first.not_before - now:.1f} s{last}"
        avoided = denials.avoided(denied, first.target, now)
        wanted = requirements_of(task, first.target, frozenset(avoided))
        return self._explained(replace(wanted, patient=self._patient(task))) + last

    def _explained(self, requirements: Requirements) -> str:
        """Of a large fleet what was true up to a second ago: a page of waiting tasks must not look at it for each of them."""
        candidates = self._load.candidates()
        if len(candidates) <= SMALL_FLEET:
            return placement.explain(requirements, candidates)
        if not 0 <= self._clock() - self._explained_at < FRESH_S:
            self._reasons, self._explained_at = {}, self._clock()
        asked = requirements.constraint, requirements.patient
        found = self._reasons.get(asked)
        if found is None:
            found = self._reasons[asked] = placement.explain(requirements, candidates)
        return found
