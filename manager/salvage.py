"""What becomes of what the database will never store, so that it is in nobody's way.

What is new is as if it had never been asked for. Of what was there before, the run ends as failed with the code
``not_storable``, and the rest stays as the database has it; what a workflow has begun because of the end that could not be
stored goes on. What is refused even so is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from manager.latent.invocations import Invocations
from manager.plans.progress import Progress
from manager.state.ledger import Ledger
from manager.state.records import Attempt, Group, Invocation, Task
from manager.state.refusals import NOT_STORABLE, Fault, Refusal
from manager.state.states import AttemptEvent, AttemptState, TaskEvent, next_task
from manager.tasks import TaskService
from manager.work.attempts import Attempts
from manager.work.runs import Outcome
from swashplate import logging

log = logging.get("salvage")


class Salvage:
    def __init__(
        self,
        ledger: Ledger,
        tasks: TaskService,
        attempts: Attempts,
        invocations: Invocations,
        progress: Progress,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._attempts = attempts
        self._invocations = invocations
        self._progress = progress
        self._clock = clock
        ledger.on_refused(self.refused)

    def refused(self, refusal: Refusal) -> None:
        for fault in refusal.faults:
            log.error(fault.reason, dropped=_given_up(fault))
        if refusal.new:
            self._withdraw(refusal)
            return
        for fault in refusal.faults:
            if _given_up(fault):
                continue
            match fault.record:
                case Task():
                    self._task(fault, fault.record)
                case Attempt():
                    self._attempt(fault, fault.record)
                case Invocation():
                    self._invocations.not_storable(fault.record, fault.reason)
                case _:
                    pass

    def _withdraw(self, refusal: Refusal) -> None:
        groups = [each for each in refusal.records.values() if isinstance(each, Group)]
        self._ledger.erase(*groups)  # first, so that it does not go on when a task ends
        for group in groups:
            self._progress.forget(group.id)
        for task in [each for each in refusal.records.values() if isinstance(each, Task)]:
            self._fail(task.id, refusal.sentence())
            self._tasks.forget(task)
            self._ledger.erase(task)

    def _fail(self, task_id: str, reason: str) -> None:
        """End the run of a task that is active."""
        task = self._ledger.task(task_id)
        if task is None or not task.state.active:
            return
        self._ledger.put(task.changed(stopping=True))  # so that nothing follows
        for attempt in self._ledger.attempts_of(task_id):
            if not attempt.state.ended:
                self._attempts.give_up(attempt.key, Outcome(AttemptEvent.FAILED, None, reason, NOT_STORABLE))

    def _task(self, fault: Fault, task: Task) -> None:
        if self._ledger.task(task.id) is not task:  # what it has become is judged by itself
            return
        # Without one it was just added to a group that was there, which does not wait for it.
        before = fault.before or task
        run = {"run": task.run, "attempt": task.attempt, "updated_at": self._clock()}
        if task.state.active:
            self._ledger.put(before.changed(state=task.state, **run))
            self._fail(task.id, fault.reason)
        elif fault.before is not None and (before.state, before.run) == (
            task.state,
            task.run,
        ):  # only what it is to do was changed
            self._ledger.put(self._tasks.on_specified(before))
        else:
            failed = before.changed(
                **run,
                state=next_task(task.state, TaskEvent.REFUSED),
                next_run=task.next_run,
                stopping=False,
                result=None,
                error=fault.reason,
                code=NOT_STORABLE,
                finished_at=self._clock(),
            )
            self._ledger.put(failed)
            self._progress.reconsider(failed)
            self._attempts.followers.ended(failed)

    def _attempt(self, fault: Fault, attempt: Attempt) -> None:
        if not attempt.state.ended:
            self._fail(attempt.task_id, fault.reason)
            return
        # It had ended otherwise, but nobody can have heard of that.
        self._ledger.put(attempt.changed(state=AttemptState.FAILED, result=None, error=fault.reason, code=NOT_STORABLE))
        task = self._ledger.task(attempt.task_id)
        if task is not None and task.state.ended:
            self._attempts.followers.ended(task)


def _given_up(fault: Fault) -> bool:
    """Was this already all that could be done? A deletion, or the state of a group, stays as the database has it."""
    match fault.record:
        case Task():
            return fault.record.code == NOT_STORABLE or fault.record == fault.before
        case Attempt() | Invocation():
            return fault.record.code == NOT_STORABLE
        case _:
            return True
