"""How jobs and workflows go on: what the plans of ``manager.plans.dag`` say is put together with what they follow from.

The end of a task and the starts of its children are one change: no crash comes between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from manager.plans.dag import Mode, Node, Nodes, Plan, advance, group_state, halt
from manager.state.ledger import Ledger
from manager.state.records import Group, GroupState, Task
from manager.state.states import TaskEvent, TaskState, next_task
from manager.tasks import TaskService
from manager.work.attempts import Attempts
from swashplate import logging
from swashplate.errors import SwashplateError

log = logging.get("groups")


@dataclass
class _Left:
    """How many tasks have not begun, and how many have not ended."""

    pending: int
    open: int


def nodes_of(tasks: Sequence[Task]) -> Nodes:
    return {task.id: Node(task.state, tuple(task.spec.depends_on), task.spec.run_if, task.spec.name) for task in tasks}


class Progress:
    def __init__(
        self, ledger: Ledger, tasks: TaskService, attempts: Attempts, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._attempts = attempts
        self._clock = clock
        self._left: dict[str, _Left] = {}
        self._again: dict[str, bool] = {}
        """The groups that are being advanced, and whether that is to be done once more."""
        self.on_ended: Callable[[Group, Sequence[Task]], Any] = lambda _group, _tasks: None
        """Called when the end of a group is durable."""
        attempts.consequences.append(self._task_ended)

    def recover(self) -> None:
        """Go on with whatever runs; normally there is nothing to be done."""
        for group in self._ledger.running_groups():
            self._go_on(group)

    def begin(self, group: Group, tasks: Sequence[Task]) -> None:
        """A new run of all of it; ``tasks`` are all that belong to it."""
        now = self._clock()
        group = group.changed(state=GroupState.RUNNING, started_at=now, finished_at=None, updated_at=now)
        self._ledger.put(group, *(_reset(task, now) for task in tasks))
        log.info("group started", group_id=group.id, kind=group.kind, name=group.name, tasks=len(tasks))
        self._go_on(group, begin=True)

    def begin_rest(self, group: Group) -> None:
        """Start what waits for nobody, in a group that runs already."""
        self._go_on(group, begin=True)

    def begin_with(self, group: Group, task: Task) -> Task:
        """Start this one task of a group, whose children will follow. Raises what makes it impossible."""
        now = self._clock()
        begun = self._tasks.launch(task)
        if group.state is not GroupState.RUNNING:
            group = group.changed(state=GroupState.RUNNING, started_at=now, finished_at=None, updated_at=now)
        self._ledger.put(group)
        self._left.pop(group.id, None)
        return begun

    def halt(self, group: Group) -> None:
        """What has not begun never will; what runs is stopped, and the group ends when that has ended."""
        reason = f"the {group.kind} was stopped"
        self._go_on(group, lambda nodes: halt(nodes, reason))

    def reconsider(self, task: Task) -> None:
        """A task has ended otherwise than was said before; so may its group."""
        group = self._ledger.group(task.group_id) if task.group_id is not None else None
        if group is not None:
            self._left.pop(group.id, None)
            self._go_on(group)

    def forget(self, group: Group) -> None:
        self._left.pop(group.id, None)

    def _task_ended(self, task: Task) -> None:
        group = self._ledger.group(task.group_id) if task.group_id is not None else None
        if group is None or group.state is not GroupState.RUNNING:
            return
        left = self._left.get(group.id)
        harmless = task.state is TaskState.COMPLETED or group.mode == Mode.WORKFLOW
        if harmless and group.id not in self._again and left is not None and not left.pending and left.open > 1:
            left.open -= 1  # nothing can follow from it but the end of all
            return
        self._go_on(group)

    def _go_on(self, group: Group, plan: Callable[[Nodes], Plan] | None = None, *, begin: bool = False) -> None:
        if group.id in self._again:
            self._again[group.id] = True
            return
        mode = Mode(group.mode)
        self._again[group.id] = True
        try:
            while self._again[group.id]:
                self._again[group.id] = False
                nodes = nodes_of(self._ledger.tasks_of_group(group.id))
                self._carry_out(group, plan(nodes) if plan is not None else advance(nodes, mode, begin=begin))
                plan, begin = None, False
        finally:
            del self._again[group.id]
        self._settle(group)

    def _carry_out(self, group: Group, plan: Plan) -> None:
        for task_id, reason in plan.skip:
            self._end(self._member(task_id), TaskEvent.SKIPPED, reason, "skipped")
        for task_id in plan.start:
            task = self._member(task_id)
            try:
                self._tasks.launch(task)
            except SwashplateError as error:
                self._end(task, TaskEvent.REFUSED, error.sentence, error.code)
                self._again[group.id] = True
        for task_id in plan.stop:
            if not (task := self._member(task_id)).stopping and task.state.active:
                self._attempts.stop(task)

    def _member(self, task_id: str) -> Task:
        task = self._ledger.task(task_id)
        assert task is not None, "all tasks of a group that runs are in memory"
        return task

    def _end(self, task: Task, event: TaskEvent, reason: str, code: str) -> None:
        now = self._clock()
        ended = task.changed(
            state=next_task(task.state, event), error=reason, code=code, updated_at=now, finished_at=now
        )
        self._ledger.put(ended)
        self._attempts.ended_unstarted(ended)

    def _settle(self, group: Group) -> None:
        """Count what is left; nothing left is the end."""
        tasks = self._ledger.tasks_of_group(group.id)
        left = _Left(
            pending=sum(not (task.state.active or task.state.ended) for task in tasks),
            open=sum(not task.state.ended for task in tasks),
        )
        if left.open:
            self._left[group.id] = left
            return
        self._left.pop(group.id, None)
        now = self._clock()
        state = GroupState(group_state(nodes_of(tasks), Mode(group.mode)))
        ended = group.changed(state=state, finished_at=now, updated_at=now)
        self._ledger.put(ended)
        self._ledger.then(lambda: self._tell_ended(ended, tasks))

    def _tell_ended(self, group: Group, tasks: Sequence[Task]) -> None:
        log.info("group ended", group_id=group.id, kind=group.kind, name=group.name, status=group.state.name.lower())
        self.on_ended(group, tasks)


def _reset(task: Task, now: float) -> Task:
    """As it was before its last run, whose attempts are kept."""
    if not task.state.ended:
        return task
    return task.changed(
        state=next_task(task.state, TaskEvent.RESET),
        updated_at=now,
        started_at=None,
        finished_at=None,
        proplet_id=None,
        stopping=False,
        result=None,
        error=None,
        code=None,
    )
