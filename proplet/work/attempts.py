"""The attempts and invocations that have no result yet: begun, stopped, superseded, and brought to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from structlog.contextvars import bound_contextvars

from proplet.monitoring.counters import Counters
from proplet.work.course import Course
from proplet.work.deliveries import Deliveries
from proplet.work.journal import Journal, PendingUpdate, PendingUpload
from proplet.work.outbox import Outbox
from proplet.work.outcome import STOPPED, Failure, Large, Learned, Outcome, log_outcome
from proplet.work.outgoing import Ref, result_message
from proplet.work.starts import called
from proplet.work.states import AttemptState
from proplet.work.task_logs import TaskLogs
from proplet.work.uploads import Uploads
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import UPLOAD_TOKEN, Invoke, Start
from swashplate.service import Tasks
from swashplate.words import counted

log = logging.get("agent")

MOST_INVOCATIONS = 1000
"""That run or wait here; beyond it a call is refused at once."""
SUPERSEDED = Failure("another attempt has started", "superseded")


class Guests(Protocol):
    """What runs tasks: ``proplet.runtime.runner.Runner``."""

    async def perform(self, start: Start, course: Course) -> Outcome:
        """Never raises for what a task can cause."""

    def check(self, start: Start) -> None:
        """Raises ``SwashplateError`` for what is not taken here."""

    def deployed(self, start: Start, course: Course) -> AbstractAsyncContextManager[None]:
        """Within, the task can be performed at once. Raises ``SwashplateError``."""


@dataclass(eq=False)
class Open:
    """An attempt or an invocation without a result. ``deadline`` is the loop's time, None when only a stop ends it."""

    ref: Ref
    start: Start
    deadline: float | None
    course: Course
    turns: asyncio.Semaphore | None = None
    """Of a latent task: entered, in turn, around each of its invocations."""
    work: asyncio.Task[Any] | None = None
    begun: bool = False
    stopped: Failure | None = None
    recording: bool = False

    @property
    def ready(self) -> bool:
        return self.course.stage == "ready"


class Attempts:
    """``slots`` is how many guests run at once, ``queue`` how many further attempts may wait."""

    def __init__(
        self,
        proplet_id: str,
        slots: int,
        queue: int,
        journal: Journal,
        outbox: Outbox,
        deliveries: Deliveries,
        uploads: Uploads,
        logs: TaskLogs,
        guests: Guests,
        counters: Counters,
    ) -> None:
        self._id = proplet_id
        self._slots = slots
        self._queue = queue
        self._journal = journal
        self._outbox = outbox
        self._deliveries = deliveries
        self._uploads = uploads
        self._logs = logs
        self._guests = guests
        self._counters = counters
        self._open: dict[Ref, Open] = {}
        self._newest: dict[str, Ref] = {}
        """By task: its open attempt of the highest number."""
        self._background = Tasks(log)
        self._closing = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when what runs here has changed."""
        self.on_stage: Callable[[Course], None] = lambda _course: None
        """Called when something enters another stage, and with the stage empty when it has ended."""
        self.on_outcome: Callable[[Course], None] = lambda _course: None
        """Called when something has an outcome, before anybody is told."""

    async def report_lost(self) -> None:
        """What an earlier life left without a result has failed; call before anything is begun."""
        lost = Failure("the proplet restarted while the task was running", "proplet_restarted", retryable=True)
        for ref in self._journal.in_state(AttemptState.ACCEPTED):
            log_outcome(ref.task_id, lost)
            await self._journal.finish(result_message(ref, self._id, lost))

    async def close(self) -> None:
        """Kill what runs. The journal keeps it: the next life reports it."""
        self._closing = True
        await self._background.close()
        self._logs.close()

    # What is here.

    @property
    def running(self) -> int:
        """How many have no outcome yet; one whose outcome is only being written has one."""
        return sum(1 for each in self._open.values() if not each.recording)

    def knows(self, ref: Ref) -> bool:
        return ref in self._open or self._journal.state(ref) is not None

    def start_of(self, ref: Ref) -> Start | None:
        """None when it has ended."""
        each = self._open.get(ref)
        return None if each is None else each.start

    def told(self) -> Iterable[Ref]:
        """The open ones that the manager has been told about."""
        return [ref for ref in self._open if self._journal.state(ref) is not None]

    @property
    def queued(self) -> int:
        """How many wait for their inputs, for a compilation or for a slot."""
        return sum(1 for each in self._open.values() if each.course.stage in {"", "fetching", "waiting", "compiling"})

    @property
    def free_slots(self) -> int:
        return max(0, self._slots - self._busy() - self._invocations())

    def _invocations(self) -> int:
        return sum(1 for ref in self._open if ref.invocation)

    def _busy(self) -> int:
        """Attempts that have a slot or wait for one; not those whose end is only being written."""
        return sum(
            1 for ref, each in self._open.items() if not ref.invocation and not each.ready and not each.recording
        )

    # What the manager wants. None of this waits: what comes later must find what came before.

    def start(self, start: Start) -> None:
        ref = Ref(start.id, start.attempt)
        if self._known(ref):
            return
        newest = self._newest.get(ref.task_id)
        if newest is not None and newest.attempt > ref.attempt:
            self._outbox.deny(ref, SUPERSEDED.code, SUPERSEDED.error)
            return
        if newest is not None:
            self._end(self._open[newest], SUPERSEDED)
        try:
            self._guests.check(start)
        except SwashplateError as error:
            self._outbox.deny(ref, error.code, error.sentence)
            return
        if len(self._open) >= self._slots + self._queue and (busy := self._busy()) >= self._slots + self._queue:
            self._outbox.deny(ref, "no_slot", f"{counted(busy, 'task')} here already, running or waiting")
            return
        self._newest[ref.task_id] = ref
        turns = asyncio.Semaphore(start.concurrency or self._slots) if start.latent else None
        self._begin(ref, start, turns)

    def invoke(self, invoke: Invoke) -> None:
        ref = Ref(invoke.task_id, invoke.attempt, invoke.invocation_id)
        if self._known(ref):
            return
        deployment = self._open.get(ref.deployment)
        if deployment is None or not deployment.ready or deployment.stopped is not None:
            self._outbox.deny(ref, "not_deployed", f"task {ref.task_id} is not deployed here", retryable=True)
            return
        if self._invocations() >= MOST_INVOCATIONS:
            self._outbox.deny(ref, "no_slot", f"{MOST_INVOCATIONS} invocations run or wait already", retryable=True)
            return
        self._begin(ref, called(deployment.start, invoke), deployment.turns)

    def stop(self, task_id: str, attempt: int) -> None:
        """``attempt`` 0 means each. A stop that overtakes its start is an answer, and the start then finds that answer."""
        for ref, each in list(self._open.items()):
            if ref.task_id == task_id and attempt in (0, ref.attempt):
                self._end(each, STOPPED)
        for brought in (self._deliveries, self._uploads):
            for ref in brought.refs():
                if ref.task_id == task_id and attempt in (0, ref.attempt) and brought.give_up(ref, STOPPED):
                    log_outcome(task_id, STOPPED)
        ref = Ref(task_id, attempt)
        if attempt and ref not in self._open and self._journal.state(ref) is None:
            self._background.start(self._outbox.finish(result_message(ref, self._id, STOPPED)), f"stop {task_id}")

    def _known(self, ref: Ref) -> bool:
        """True when it was asked for before; it is then answered once more."""
        known, state = self._open.get(ref), self._journal.state(ref)
        if known is None and state is None:
            return False
        log.info("asked again", task_id=ref.task_id, attempt=ref.attempt)
        if state in {AttemptState.FINISHED, AttemptState.ACKNOWLEDGED}:
            self._background.start(self._outbox.send_again(ref), "send again")
        elif known is not None and known.ready:
            self._outbox.ready(ref)
        elif state is not None:
            self._outbox.say_accepted(ref)
        return True

    def _begin(self, ref: Ref, start: Start, turns: asyncio.Semaphore | None) -> None:
        deadline = None if start.timeout_s is None else asyncio.get_running_loop().time() + start.timeout_s
        course = Course(ref, self.on_stage, log=self._logs.of(ref))
        each = self._open[ref] = Open(ref, start, deadline, course, turns)
        self._outbox.accept(ref)
        self.on_change()
        each.work = self._background.start(self._pursue(each), "/".join(map(str, ref)))

    def _end(self, each: Open, reason: Failure) -> None:
        if each.stopped is not None:
            return
        each.stopped = reason
        if each.begun and not each.recording and each.work is not None:
            each.work.cancel()  # before its first step it would be gone without a word

    # One of them.

    async def _pursue(self, each: Open) -> None:
        each.begun = True
        round_id = each.start.env.get("ROUND_ID")
        try:
            if round_id:
                with bound_contextvars(round_id=round_id):
                    await self._to_its_end(each)
            else:
                await self._to_its_end(each)
        except SwashplateError as error:
            log.error("attempt could not be recorded", task_id=each.ref.task_id, error=error.sentence)
        finally:
            del self._open[each.ref]
            self._logs.forget(each.ref)
            if self._newest.get(each.ref.task_id) == each.ref:
                del self._newest[each.ref.task_id]
            each.course.enter("")
            self.on_change()

    async def _to_its_end(self, each: Open) -> None:
        outcome = await self._outcome(each)
        each.recording = True
        if not each.ref.invocation:  # before anybody is told: who is told may look
            self._counters.ended(outcome.code if isinstance(outcome, Failure) else "")
        self.on_outcome(each.course)
        report = each.course.report()
        log_outcome(each.ref.task_id, outcome)
        if isinstance(outcome, Learned):
            success = result_message(each.ref, self._id, outcome, report).payload
            token = each.start.tokens.get("update", "")
            await self._deliveries.deliver(PendingUpdate(each.ref, outcome.update, token, success))
            if each.stopped is not None:  # while that was written
                self._deliveries.give_up(each.ref, each.stopped)
        elif isinstance(outcome, Large):
            success = result_message(each.ref, self._id, outcome, report).payload
            token = each.start.tokens.get(UPLOAD_TOKEN, "")
            await self._uploads.bring(PendingUpload(each.ref, outcome.digest, token, success))
            if each.stopped is not None:  # while that was written
                self._uploads.give_up(each.ref, each.stopped)
        else:
            await self._outbox.finish(result_message(each.ref, self._id, outcome, report))

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
            if each.stopped is None or this is None or self._closing:
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
                each.course.enter("ready")
                self._outbox.ready(each.ref)
                self.on_change()
                try:
                    await asyncio.Event().wait()  # until it is cancelled
                finally:
                    if each.stopped is not None:
                        self._end_invocations(each.ref, each.stopped)
            raise AssertionError("nobody sets the event")
        except SwashplateError as error:
            return Failure(error.sentence, error.code, error.retryable)

    def _end_invocations(self, deployment: Ref, reason: Failure) -> None:
        for ref, each in list(self._open.items()):
            if ref.invocation and ref.deployment == deployment:
                self._end(each, reason)
