"""Starts scheduled tasks at their second.

One timer, set to the earliest. A firing moves ``next_run`` on in the same change as it starts the task, so that it happens
once whatever crashes; what was due while the manager was down is due when it is up again.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence

from manager.plans.schedules import Due, due, next_run, zone_of
from manager.state import store
from manager.state.ledger import Ledger
from manager.state.records import Task
from manager.state.states import TaskEvent, next_task
from manager.tasks import TaskService
from swashplate import logging
from swashplate.database import Database
from swashplate.errors import InvalidRequestError, NotFoundError, SwashplateError
from swashplate.service import Tasks

log = logging.get("scheduler")

AGAIN_S = 1.0
"""After this, a firing that the database did not allow is tried again."""
LONGEST_S = 60.0
"""The timer goes by a clock that does not notice when the machine's is set, or that it slept; so it looks that often."""


class Scheduler:
    def __init__(
        self, database: Database, ledger: Ledger, tasks: TaskService, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._tasks = tasks
        self._clock = clock
        self._armed: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []
        """A heap; an entry counts only while ``_armed`` says the same."""
        self._timer: asyncio.TimerHandle | None = None
        self._found: Sequence[tuple[str, float]] = ()
        self._work = Tasks(log)
        tasks.on_specified = self.specified
        tasks.on_erased.append(self.erased)

    async def open(self) -> None:
        """Read what is scheduled."""
        self._found = await self._database.run(store.scheduled_tasks)

    def recover(self) -> None:
        """Call when everything else is ready: what is due fires at once."""
        for task_id, when in self._found:
            self._arm(task_id, when)
        self._found = ()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._work.close()

    def specified(self, task: Task) -> Task:
        """``task`` with its next run. Raises ``InvalidRequestError`` when its schedule or its zone means nothing."""
        spec = task.spec
        if not spec.schedule:
            zone_of(spec.timezone)  # a wrong one is told now, not when it is needed
            self._disarm(task.id)
            return task.changed(next_run=None)
        if task.group_id is not None:
            raise InvalidRequestError("field schedule: a task of a job or a workflow runs when that does")
        when = next_run(spec.schedule, spec.timezone, self._clock())
        self._arm(task.id, when)
        return task.changed(next_run=when)

    def erased(self, task: Task) -> None:
        self._disarm(task.id)

    def _disarm(self, task_id: str) -> None:
        self._armed.pop(task_id, None)

    def _arm(self, task_id: str, when: float) -> None:
        self._armed[task_id] = when
        heapq.heappush(self._queue, (when, task_id))
        self._set_timer()

    def _set_timer(self) -> None:
        while self._queue and self._armed.get(self._queue[0][1]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            wait = min(max(0.0, self._queue[0][0] - self._clock()), LONGEST_S)
            self._timer = asyncio.get_running_loop().call_later(wait, self._time_has_come)

    def _time_has_come(self) -> None:
        now, found = self._clock(), []
        while self._queue and self._queue[0][0] <= now:
            when, task_id = heapq.heappop(self._queue)
            if self._armed.get(task_id) == when:
                del self._armed[task_id]
                found.append((task_id, when))
        self._timer = None
        self._set_timer()
        if found:
            self._work.start(self._fire_all(found), "schedules")

    async def _fire_all(self, found: list[tuple[str, float]]) -> None:
        """Together they are started in the order of their priority, then of their age."""
        tasks = []
        for task_id, when in found:
            task = await self._read(task_id, when)
            if task is not None:
                tasks.append((task, when))
        for task, when in sorted(tasks, key=lambda entry: (-entry[0].spec.priority, entry[0].seq)):
            # Once more: while the others were read, it may have changed.
            current = await self._read(task.id, when)
            if current is not None and current.next_run == when:
                self._fire(current, when)

    async def _read(self, task_id: str, when: float) -> Task | None:
        try:
            task = await self._ledger.fetch(task_id)
            self._ledger.check()
        except NotFoundError:
            return None
        except SwashplateError as error:
            log.warning("a schedule waits for the database", task_id=task_id, error=error.sentence)
            asyncio.get_running_loop().call_later(AGAIN_S, self._arm_again, task_id, when)
            return None
        return task

    def _arm_again(self, task_id: str, when: float) -> None:
        if task_id not in self._armed:
            self._arm(task_id, when)

    def _fire(self, task: Task, when: float) -> None:
        now = self._clock()
        verdict = due(when, now, task.spec.missed_run)
        if verdict is Due.WAIT:  # the clock was set back
            self._arm(task.id, when)
            return
        task = self._moved_on(task, now)
        if verdict is Due.SKIP:
            log.warning("a run was missed and is left out", task_id=task.id, name=task.spec.name, late_s=now - when)
            self._ledger.put(task)
        elif task.state.active:
            log.warning("still running: this firing is left out", task_id=task.id, name=task.spec.name)
            self._ledger.put(task)
        else:
            self._start(task, now)

    def _moved_on(self, task: Task, now: float) -> Task:
        spec = task.spec
        if spec.is_recurring:
            try:
                upcoming = next_run(spec.schedule, spec.timezone, now)
            except InvalidRequestError as error:  # the zone has gone from the database, or that was the last time
                log.error("a schedule has ended", task_id=task.id, error=error.sentence)
            else:
                self._arm(task.id, upcoming)
                return task.changed(next_run=upcoming, updated_at=now)
        spec = spec.model_copy(update={"schedule": "", "is_recurring": False})
        return task.specified(spec).changed(next_run=None, updated_at=now)

    def _start(self, task: Task, now: float) -> None:
        self._ledger.put(task)
        try:
            self._tasks.launch(task)
        except SwashplateError as error:
            log.error("a scheduled task cannot start", task_id=task.id, name=task.spec.name, error=error.sentence)
            refused = next_task(task.state, TaskEvent.REFUSED)
            self._ledger.put(
                task.changed(state=refused, error=error.sentence, code=error.code, result=None, finished_at=now)
            )
