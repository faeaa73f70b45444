"""What the manager wants of this proplet: attempts and invocations begun, stopped, superseded, and answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from structlog.contextvars import bound_contextvars

from proplet.monitoring.counters import Counters
from proplet.work.course import Course
from proplet.work.deliveries import Deliveries
from proplet.work.endings import Endings, Guests
from proplet.work.journal import Journal
from proplet.work.outbox import Outbox
from proplet.work.outcome import STOPPED, Failure, log_outcome
from proplet.work.outgoing import Ref, result_message
from proplet.work.register import Open, Register
from proplet.work.starts import called
from proplet.work.states import AttemptState
from proplet.work.task_logs import TaskLogs
from proplet.work.uploads import Uploads
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import Invoke, Start
from swashplate.service import Tasks
from swashplate.words import counted

log = logging.get("agent")

MOST_INVOCATIONS = 1000
"""That run or wait here; beyond it a call is refused at once."""
SUPERSEDED = Failure("another attempt has started", "superseded")
LOST = Failure("the proplet restarted while the task was running", "proplet_restarted", retryable=True)


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
        self._open = Register(slots)
        self._lost: set[Ref] = set()
        """Deployments of an earlier life, that are reported when all of their invocations are."""
        self._deployments: set[Ref] = set()
        """Those of this life, whatever became of them."""
        self._background = Tasks(log)
        self._endings = Endings(proplet_id, outbox, deliveries, uploads, guests, counters)
        self._endings.on_deployed = lambda _each: self.on_change()
        self._endings.on_undeployed = self._end_invocations
        self._endings.on_outcome = self._has_outcome
        self.on_change: Callable[[], None] = lambda: None
        """Called when what runs here has changed."""
        self.on_stage: Callable[[Course], None] = lambda _course: None
        """Called when something enters another stage, and with the stage empty when it has ended."""
        self.on_outcome: Callable[[Course], None] = lambda _course: None
        """Called when something has an outcome, before anybody is told."""

    async def report_lost(self) -> None:
        """What an earlier life left without a result has failed; call before anything is begun, when the uploads are open.

        With a deployment the manager ends the invocations that it knows no result of. Where one is still on its way, the
        end of the deployment waits for it.
        """
        awaited = {ref.deployment for ref in self._uploads.refs() if ref.invocation}
        for ref in self._journal.in_state(AttemptState.ACCEPTED):
            log_outcome(ref.task_id, LOST)
            if ref in awaited:
                self._lost.add(ref)
                self._background.start(self._report_after_its_calls(ref), f"lost {ref.task_id}")
            else:
                await self._journal.finish(result_message(ref, self._id, LOST))

    async def _report_after_its_calls(self, ref: Ref) -> None:
        await self._uploads.calls_told(ref)
        await self._outbox.finish(result_message(ref, self._id, LOST))
        self._lost.discard(ref)

    async def close(self) -> None:
        """Kill what runs. The journal keeps it: the next life reports it."""
        self._endings.closing = True
        await self._background.close()
        self._logs.close()

    # What is here.

    @property
    def running(self) -> int:
        """How many have no outcome yet."""
        return self._open.running

    def knows(self, ref: Ref) -> bool:
        return ref in self._open or self._journal.state(ref) is not None

    def start_of(self, ref: Ref) -> Start | None:
        """None when it has ended."""
        each = self._open.get(ref)
        return None if each is None else each.start

    def log_again(self) -> None:
        """To a manager that is new: what guests wrote to stderr last."""
        self._logs.again()

    def told(self) -> Iterable[Ref]:
        """Those without a result that the manager has been told about."""
        return [*self._lost, *(each.ref for each in self._open if self._journal.state(each.ref) is not None)]

    @property
    def queued(self) -> int:
        """How many wait for their inputs, for a compilation or for a slot."""
        return self._open.queued

    @property
    def free_slots(self) -> int:
        return self._open.free_slots

    # What the manager wants. None of this waits: what comes later must find what came before.

    def start(self, start: Start) -> None:
        ref = Ref(start.id, start.attempt)
        if self._known(ref):
            return
        newest = self._open.newest(ref.task_id)
        if newest is not None and newest.ref.attempt > ref.attempt:
            self._outbox.deny(ref, SUPERSEDED.code, SUPERSEDED.error)
            return
        if newest is not None:
            newest.end(SUPERSEDED)
        try:
            self._guests.check(start)
        except SwashplateError as error:
            self._outbox.deny(ref, error.code, error.sentence)
            return
        most = self._slots + self._queue
        if len(self._open) >= most and (busy := self._open.busy) >= most:
            self._outbox.deny(ref, "no_slot", f"{counted(busy, 'task')} here already, running or waiting")
            return
        turns = asyncio.Semaphore(start.concurrency or self._slots) if start.latent else None
        if start.latent:
            self._deployments.add(ref)
        self._begin(ref, start, turns)

    def invoke(self, invoke: Invoke) -> None:
        ref = Ref(invoke.task_id, invoke.attempt, invoke.invocation_id)
        if self._known(ref):
            return
        deployment = self._open.get(ref.deployment)
        if ref.deployment not in self._deployments and self._journal.state(ref.deployment) is not None:
            # An earlier life had it, and may have begun this call and died before that was on the disk.
            self._outbox.deny(ref, LOST.code, LOST.error, retryable=True)
            return
        if deployment is None or not deployment.ready or deployment.stopped is not None:
            self._outbox.deny(ref, "not_deployed", f"task {ref.task_id} is not deployed here", retryable=True)
            return
        if self._open.invocations >= MOST_INVOCATIONS:
            self._outbox.deny(ref, "no_slot", f"{MOST_INVOCATIONS} invocations run or wait already", retryable=True)
            return
        self._begin(ref, called(deployment.start, invoke), deployment.turns)

    def stop(self, task_id: str, attempt: int) -> None:
        """``attempt`` 0 means each. A stop that overtakes its start is an answer, and the start then finds that answer."""
        for each in self._open.of_task(task_id, attempt):
            each.end(STOPPED)
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
        each = Open(ref, start, deadline, Course(ref, self.on_stage, log=self._logs.of(ref)), turns)
        self._open.add(each)
        self._outbox.accept(ref)
        self.on_change()
        each.work = self._background.start(self._pursue(each), "/".join(map(str, ref)))

    async def _pursue(self, each: Open) -> None:
        each.begun = True
        round_id = each.start.env.get("ROUND_ID")
        try:
            if round_id:
                with bound_contextvars(round_id=round_id):
                    await self._endings.reach(each)
            else:
                await self._endings.reach(each)
        except SwashplateError as error:
            log.error("attempt could not be recorded", task_id=each.ref.task_id, error=error.sentence)
        finally:
            self._open.remove(each)
            self._logs.forget(each.ref)
            each.course.enter("")
            self.on_change()

    def _has_outcome(self, course: Course) -> None:
        self.on_outcome(course)

    def _end_invocations(self, deployment: Open, reason: Failure) -> None:
        for each in self._open.calls_of(deployment.ref):
            each.end(reason)
