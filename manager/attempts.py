"""The life of an attempt: its image resolved, its start offered until accepted, its lease, its one result.

The database says what is true; this room keeps only timers and wake-ups, and makes them again after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection

from manager import states, store
from manager.dialects import LEASE_GRACE_S, Dialect
from manager.images import Images
from manager.proplets import Proplets
from manager.states import AttemptEvent, AttemptState, TaskEvent, TaskState
from manager.store import Attempt, Task
from swashplate import logging, topics
from swashplate.bus import Bus, BusError, Received
from swashplate.database import Database
from swashplate.errors import InvalidRequestError, SwashplateError, UnavailableError
from swashplate.messages import Ack, AttemptStatus, Result, TaskCreate
from swashplate.service import Tasks

log = logging.get("attempts")

OFFER_AGAIN_S = 2.0
OFFER_AGAIN_MOST_S = 30.0
RECORD_AGAIN_S = 1.0
TOLD_AGAIN_S = 600.0
AWAY_S = 15.0
"""How long a registry that does not answer is waited for, before it costs an attempt."""


class Observer(Protocol):
    """Somebody who follows tasks without taking part."""

    def task_refused(self, spec: TaskCreate, error: SwashplateError) -> None: ...

    def task_started(self, task: Task) -> None: ...

    def task_ended(self, task: Task) -> None:
        """Perhaps more than once: those that ended shortly before a restart are told of again."""


@dataclass
class _Offer:
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    again: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    event: AttemptEvent
    result: str | None = None
    error: str | None = None
    code: str | None = None
    retryable: bool = False


class Attempts:
    """``dialect_of`` says how the proplet with this id is spoken to; asked each time, as it may change."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        names: topics.Topics,
        proplets: Proplets,
        images: Images,
        dialect_of: Callable[[str], Dialect],
    ) -> None:
        self._bus = bus
        self._database = database
        self._topics = names
        self._proplets = proplets
        self._images = images
        self._dialect_of = dialect_of
        self._work = Tasks(log)
        self._offers: dict[tuple[str, int], tuple[str, _Offer]] = {}
        self._leases: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._active: Counter[str] = Counter()
        self.observers: list[Observer] = []

    async def open(self) -> None:
        """Declare the subscriptions; call before the bus connects."""
        await self._bus.subscribe(self._topics.every_proplet("status"), self._said_status)
        await self._bus.subscribe(self._topics.every_proplet("results"), self._said_result)
        self._proplets.on_join(self._offer_again)

    async def recover(self) -> None:
        """Take up every attempt that had not ended when the process did."""

        def left(db: Connection) -> list[tuple[Attempt, Task | None]]:
            return [(attempt, store.get_task(db, attempt.task_id)) for attempt in store.open_attempts(db)]

        for attempt, task in await self._database.run(left):
            if task is not None:
                self.pursue(task, attempt)
        since = time.time() - TOLD_AGAIN_S
        for task in await self._database.run(lambda db: store.ended_since(db, since)):
            for observer in self.observers:
                observer.task_ended(task)

    async def close(self) -> None:
        for timer in self._leases.values():
            timer.cancel()
        await self._work.close()

    def active(self, proplet_id: str) -> int:
        """How many attempts of this proplet have not ended."""
        return self._active[proplet_id]

    def accepted_by(self, proplet_id: str) -> list[tuple[str, int]]:
        """Task and number of every attempt that this proplet has accepted and that has not ended."""
        return [key for key, (holder, offer) in self._offers.items() if holder == proplet_id and offer.settled.is_set()]

    def pursue(self, task: Task, attempt: Attempt, *, delay: float = 0.0) -> None:
        """Do whatever an open attempt needs next; ``delay`` seconds from now at the earliest."""
        key = attempt.task_id, attempt.number
        offer = _Offer()
        self._offers[key] = attempt.proplet_id, offer
        self._active[attempt.proplet_id] += 1
        left = max(0.0, attempt.deadline - time.time())
        self._leases[key] = asyncio.get_running_loop().call_later(left, self._lease_ended, attempt)
        if attempt.state is AttemptState.ACCEPTED:
            offer.settled.set()
        else:
            self._work.start(self._bring(task, attempt, offer, delay), f"attempt {attempt.number} of {task.id}")

    async def _bring(self, task: Task, attempt: Attempt, offer: _Offer, delay: float) -> None:
        """Bring the start to the proplet. Whatever goes wrong on the way ends the attempt; it is not left to its lease."""
        if delay:
            await self._wait_any(offer, delay)
        try:
            await self._resolve_and_offer(task, attempt, offer)
        except SwashplateError as error:
            log.error("attempt cannot begin", task_id=task.id, image=task.spec.image_url, error=error.sentence)
            outcome = Outcome(AttemptEvent.FAILED, None, error.sentence, error.code, error.retryable)
            await self._finish_surely(task.id, attempt.number, outcome)
        except Exception as error:
            log.exception("attempt cannot begin", task_id=task.id)
            outcome = Outcome(AttemptEvent.FAILED, None, f"internal error: {error!r}", "internal")
            await self._finish_surely(task.id, attempt.number, outcome)

    async def _resolve_and_offer(self, task: Task, attempt: Attempt, offer: _Offer) -> None:
        """Resolve the image once, then offer the start until it is settled."""
        if task.digest is None:
            patience = min(AWAY_S, task.spec.timeout_s / 4)
            binary = await self._images.resolve(task.spec.image_url, patience=patience)
            task = task.changed(digest=binary.digest, size=binary.size)
        if attempt.state is AttemptState.RESOLVING:
            opened = await self._resolved(task, attempt)
            if opened is None:
                return
            attempt = opened
        wait = OFFER_AGAIN_S
        while not offer.settled.is_set():
            try:
                # Not into the queue of a bus without a broker: it would come late, and with its copies.
                await self._bus.wait_connected(wait)
                dialect = self._dialect_of(attempt.proplet_id)
                await dialect.start(task, attempt)
                if not dialect.confirms:
                    await self._accepted(attempt.proplet_id, task.id, attempt.number)
            except (BusError, UnavailableError) as error:
                log.warning("start not published, trying again", task_id=task.id, error=error.sentence)
            await self._wait_any(offer, wait)
            wait = min(wait * 2, OFFER_AGAIN_MOST_S)

    @staticmethod
    async def _wait_any(offer: _Offer, seconds: float) -> None:
        """Until the offer is settled, asked for again, or the time is over."""
        waits = [asyncio.ensure_future(offer.settled.wait()), asyncio.ensure_future(offer.again.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        offer.again.clear()

    async def _resolved(self, task: Task, attempt: Attempt) -> Attempt | None:
        def record(db: Connection) -> Attempt | None:
            current = store.get_attempt(db, task.id, attempt.number)
            stored = store.get_task(db, task.id)
            if current is None or stored is None or current.state is not AttemptState.RESOLVING:
                return None
            opened = current.changed(state=states.next_attempt(current.state, AttemptEvent.RESOLVED))
            store.save_attempt(db, opened)
            store.save_task(db, stored.changed(digest=task.digest, size=task.size))
            return opened

        return await self._database.run(record)

    async def stop(self, attempt: Attempt) -> None:
        """End an attempt: at once when no proplet has accepted it or it will not say so, else by telling its proplet, which
        reports the end.
        """
        dialect = self._dialect_of(attempt.proplet_id)
        if attempt.state is not AttemptState.ACCEPTED or not dialect.confirms:
            outcome = Outcome(AttemptEvent.INTERRUPTED, None, "stopped", "stopped")
            await self.finish(attempt.task_id, attempt.number, outcome)
        # Also when it was not accepted: the start may have reached the proplet all the same.
        await dialect.stop(attempt)

    async def _offer_again(self, proplet_id: str) -> None:
        """A proplet is back: whatever it has not accepted yet goes out at once."""
        for holder, offer in self._offers.values():
            if holder == proplet_id:
                offer.again.set()

    def _settle(self, key: tuple[str, int]) -> None:
        """The attempt has ended: no timer and no offer are left."""
        timer = self._leases.pop(key, None)
        if timer is not None:
            timer.cancel()
        entry = self._offers.pop(key, None)
        if entry is not None:
            self._active[entry[0]] -= 1
            entry[1].settled.set()

    def _lease_ended(self, attempt: Attempt) -> None:
        self._work.start(self._expire(attempt), f"expire {attempt.task_id}")

    async def _expire(self, attempt: Attempt) -> None:
        dialect = self._dialect_of(attempt.proplet_id)
        if not dialect.confirms and self._bus.connected:  # it was not told of the deadline
            with contextlib.suppress(BusError):
                await dialect.stop(attempt)
        reason = "the lease ended without a result"
        outcome = Outcome(AttemptEvent.EXPIRED, None, reason, "lease_expired", retryable=True)
        await self._finish_surely(attempt.task_id, attempt.number, outcome)

    async def _finish_surely(self, task_id: str, number: int, outcome: Outcome) -> None:
        """For what nobody will say again: try until the database can write."""
        while True:
            try:
                await self.finish(task_id, number, outcome)
                return
            except UnavailableError as error:
                log.error("end of an attempt not recorded, trying again", task_id=task_id, error=error.sentence)
            await asyncio.sleep(RECORD_AGAIN_S)

    async def _said_status(self, message: Received) -> None:
        said = AttemptStatus.decode(message.payload)
        sender = self._checked_sender(message, said.proplet_id)
        if said.status == "accepted":
            await self._accepted(sender, said.task_id, said.attempt)
        elif said.status == "denied":
            log.warning("start denied", task_id=said.task_id, proplet_id=sender, reason=said.reason, code=said.code)
            outcome = Outcome(AttemptEvent.DENIED, None, f"denied by the proplet: {said.reason}", said.code, True)
            await self.finish(said.task_id, said.attempt, outcome, sender=sender)
        await self._acknowledge(sender, said.id)

    async def _accepted(self, sender: str, task_id: str, number: int) -> None:
        now = time.time()

        def record(db: Connection) -> None:
            attempt = store.get_attempt(db, task_id, number)
            task = store.get_task(db, task_id)
            if attempt is None or task is None or attempt.proplet_id != sender:
                log.warning("accepted what it was not given", task_id=task_id, proplet_id=sender)
                return
            if attempt.state is not AttemptState.OFFERED:
                return
            state = states.next_attempt(attempt.state, AttemptEvent.ACCEPTED)
            store.save_attempt(db, attempt.changed(state=state, accepted_at=now))
            if task.attempt == attempt.number and task.state is TaskState.SCHEDULED:
                running = states.next_task(task.state, TaskEvent.ACCEPTED)
                store.save_task(db, task.changed(state=running, updated_at=now, started_at=task.started_at or now))

        await self._database.run(record)
        entry = self._offers.get((task_id, number))
        if entry is not None:
            entry[1].settled.set()

    async def _said_result(self, message: Received) -> None:
        said = Result.decode(message.payload)
        sender = self._checked_sender(message, said.proplet_id)
        if not said.error:
            outcome = Outcome(AttemptEvent.COMPLETED, json.dumps(said.results))
        else:
            event = AttemptEvent.INTERRUPTED if said.code == "stopped" else AttemptEvent.FAILED
            outcome = Outcome(event, json.dumps(said.results), said.error, said.code or "failed", said.retryable)
        await self.finish(said.task_id, said.attempt, outcome, sender=sender)
        await self._acknowledge(sender, said.id)

    def _checked_sender(self, message: Received, claimed: str) -> str:
        sender = self._proplets.sender(message)
        if sender != claimed:
            raise InvalidRequestError(f"{sender} speaks as {claimed}", code="wrong_sender")
        return sender

    async def _acknowledge(self, proplet_id: str, message_id: str) -> None:
        # QoS 0: when it is lost, the proplet sends again and is acknowledged again.
        topic = self._topics.to_proplet(proplet_id, "ack")
        await self._bus.publish(topic, Ack(ids=[message_id]).encode(), qos=0)

    async def finish(self, task_id: str, number: int, outcome: Outcome, *, sender: str | None = None) -> None:
        """Record how an attempt ended, once, and go on with its task. Only the proplet that holds it may say so."""
        now = time.time()

        def record(db: Connection) -> tuple[Task, Attempt | None] | None:
            """The task as it is now and the attempt that follows, or None when there was nothing to record."""
            attempt, task = store.get_attempt(db, task_id, number), store.get_task(db, task_id)
            if attempt is None or task is None or (sender is not None and attempt.proplet_id != sender):
                log.warning("result of an attempt that it was not given", task_id=task_id, proplet_id=sender)
                return None
            if (attempt.state, outcome.event) not in states.ATTEMPT:
                log.info("attempt had already ended", task_id=task_id, attempt=number, state=str(attempt.state))
                return None
            ended = attempt.changed(
                state=states.next_attempt(attempt.state, outcome.event),
                finished_at=now,
                error=outcome.error,
                code=outcome.code,
            )
            store.save_attempt(db, ended)
            if task.attempt != number or task.state.ended:
                return task, None
            event = states.task_event(
                ended.state, retryable=outcome.retryable, attempt=number, retries=task.spec.retries
            )
            task = self._after(task, event, outcome, now)
            again = next_attempt_of(task, ended.proplet_id, now) if event is TaskEvent.RETRY else None
            if again is not None:
                task = task.changed(attempt=again.number)
                store.add_attempt(db, again)
            store.save_task(db, task)
            return task, again

        recorded = await self._database.run(record)
        if recorded is None:
            return
        task, again = recorded
        self._settle((task_id, number))
        if again is not None:
            log.warning("attempt failed, trying again", task_id=task_id, attempt=number, error=outcome.error)
            self.pursue(task, again, delay=states.retry_delay(number))
        elif task.attempt == number and task.state.ended:
            log.info("task ended", task_id=task_id, status=task.state.name.lower(), error=outcome.error)
            for observer in self.observers:
                observer.task_ended(task)

    @staticmethod
    def _after(task: Task, event: TaskEvent, outcome: Outcome, now: float) -> Task:
        state = states.next_task(task.state, event)
        if event is TaskEvent.RETRY:
            return task.changed(state=state, updated_at=now)
        return task.changed(
            state=state,
            updated_at=now,
            finished_at=now,
            result=outcome.result,
            error=outcome.error,
            code=outcome.code,
        )


def next_attempt_of(task: Task, proplet_id: str, now: float) -> Attempt:
    """The attempt after the task's latest; its lease covers everything up to the result."""
    return Attempt(
        task_id=task.id,
        number=task.attempt + 1,
        proplet_id=proplet_id,
        state=AttemptState.OFFERED if task.digest else AttemptState.RESOLVING,
        deadline=now + task.spec.timeout_s + LEASE_GRACE_S,
        created_at=now,
    )
