"""One attempt or invocation on its way to its end: performed until it has an outcome, which then goes where it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from proplet.monitoring.counters import Counters
from proplet.work.course import Course
from proplet.work.deliveries import Deliveries
from proplet.work.journal import PendingUpdate, PendingUpload
from proplet.work.outbox import Outbox
from proplet.work.outcome import Failure, Large, Learned, Outcome, log_outcome
from proplet.work.outgoing import result_message
from proplet.work.register import Open
from proplet.work.uploads import Uploads
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import UPLOAD_TOKEN, Start

log = logging.get("agent")


class Guests(Protocol):
    """What runs tasks: ``proplet.runtime.runner.Runner``."""

    async def perform(self, start: Start, course: Course) -> Outcome:
        """Never raises for what a task can cause."""

    def check(self, start: Start) -> None:
        """Raises ``SwashplateError`` for what is not taken here."""

    def deployed(self, start: Start, course: Course) -> AbstractAsyncContextManager[None]:
        """Within, the task can be performed at once. Raises ``SwashplateError``."""


class Endings:
    def __init__(
        self,
        proplet_id: str,
        outbox: Outbox,
        deliveries: Deliveries,
        uploads: Uploads,
        guests: Guests,
        counters: Counters,
    ) -> None:
        self._id = proplet_id
        self._outbox = outbox
        self._deliveries = deliveries
        self._uploads = uploads
        self._guests = guests
        self._counters = counters
        self.closing = False
        """What is cancelled from now on has no outcome: the next life reports it."""
        self.on_deployed: Callable[[Open], None] = lambda _each: None
        """Called when a latent task is ready to be invoked."""
        self.on_undeployed: Callable[[Open, Failure], None] = lambda _each, _reason: None
        """Called when it is no more because it was stopped, and why."""
        self.on_outcome: Callable[[Course], None] = lambda _course: None
        """Called when something has an outcome, before anybody is told."""

    async def reach(self, each: Open) -> None:
        """Return when its outcome is kept. Raises ``SwashplateError`` when that cannot be."""
        outcome = await self._outcome(each)
        each.recording = True
        if not each.ref.invocation:  # before anybody is told: who is told may look
            self._counters.ended(outcome.code if isinstance(outcome, Failure) else "")
        self.on_outcome(each.course)
        log_outcome(each.ref.task_id, outcome)
        message = result_message(each.ref, self._id, outcome, each.course.report())
        if isinstance(outcome, Learned):
            token = each.start.tokens.get("update", "")
            await self._deliveries.deliver(PendingUpdate(each.ref, outcome.update, token, message.payload))
            if each.stopped is not None:  # while that was written
                self._deliveries.give_up(each.ref, each.stopped)
        elif isinstance(outcome, Large):
            token = each.start.tokens.get(UPLOAD_TOKEN, "")
            await self._uploads.bring(PendingUpload(each.ref, outcome.digest, token, message.payload))
            if each.stopped is not None:  # while that was written
                self._uploads.give_up(each.ref, each.stopped)
        else:
            await self._outbox.finish(message)

    async def _outcome(self, each: Open) -> Outcome:
        """Performs until the end, the deadline, or a stop."""
        if not each.ref.invocation:
            self._counters.started += 1
        if each.stopped is not None:
            return each.stopped
        try:
            async with asyncio.timeout_at(each.deadline):
                return await self._performed(each)
        except TimeoutError:
            # What was left of the task's time when it was placed here: rarely a round number.
            return Failure(f"timed out after {each.start.timeout_s or 0:.1f} s", "timeout")
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if each.stopped is None or this is None or self.closing:
                raise
            this.uncancel()
            return each.stopped

    async def _performed(self, each: Open) -> Outcome:
        """A fault of our own is an outcome too: the manager must not wait for a lease to end."""
        try:
            if each.start.latent:
                return await self._deployed(each)
            if each.turns is not None:
                async with each.turns:
                    return await self._guests.perform(each.start, each.course)
            return await self._guests.perform(each.start, each.course)
        except Exception:
            log.exception("attempt failed unexpectedly", task_id=each.ref.task_id)
            return Failure("internal error of the proplet; its log has the details", "internal", retryable=True)

    async def _deployed(self, each: Open) -> Failure:
        """Ready to be invoked until it is stopped; its invocations end with it."""
        try:
            async with self._guests.deployed(each.start, each.course):
                await self._outbox.kept(each.ref)  # a next life must know whose calls it may have run
                each.course.enter("ready")
                self._outbox.ready(each.ref)
                self.on_deployed(each)
                try:
                    await asyncio.Event().wait()  # until it is cancelled
                finally:
                    if each.stopped is not None:
                        self.on_undeployed(each, each.stopped)
            raise AssertionError("nobody sets the event")
        except SwashplateError as error:
            return Failure(error.sentence, error.code, error.retryable)
