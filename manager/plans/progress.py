"""How jobs and workflows go on: what their courses say is put together with what it follows from.

The end of a task and the starts of its children are one change: no crash comes between them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import Any

from manager.plans.course import Course
from manager.plans.dag import Mode, Node, Nodes, Plan, group_state
from manager.state.ledger import Ledger
from manager.state.records import Group, GroupState, Task
from manager.state.states import TaskEvent, TaskState, next_task
from manager.tasks import TaskService
from manager.work.attempts import Attempts
from swashplate import logging
from swashplate.errors import ConflictError, SwashplateError

log = logging.get("groups")


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
        self._courses: dict[str, Course] = {}
        """Of groups that run; one that is missing is made of what the ledger has."""
        self._plans: dict[str, deque[Plan]] = {}
        """What is still to be carried out, of groups where that is under way: it may end a task at once."""
        self.on_ended: list[Callable[[Group, Sequence[Task]], Any]] = []
        """Called when the end of a group is durable."""
        attempts.consequences.append(self._task_ended)

    def recover(self) -> None:
        """Go on with whatever runs; normally there is nothing to be done."""
        for group in self._ledger.running_groups():
            self._follow(group, self._made(group).due())

    def begin(self, group: Group, tasks: Sequence[Task]) -> None:
        """A new run of all of it; ``tasks`` are all that belong to it."""
        now = self._clock()
        group = group.changed(state=GroupState.RUNNING, started_at=now, finished_at=None, updated_at=now)
        self._ledger.put(group, *(_reset(task, now) for task in tasks))
        log.info("group started", group_id=group.id, kind=group.kind, name=group.name, tasks=len(tasks))
        self.begin_rest(group, {task.id for task in tasks})

    def begin_rest(self, group: Group, begun: Container[str]) -> None:
        """Start those of ``begun`` that wait for nobody, in a group that runs already."""
        self._follow(group, self._made(group).due(begun))

    def begin_with(self, group: Group, task: Task) -> Task:
        """Start this one task of a group, whose children will follow. Raises what makes it impossible."""
        now = self._clock()
        begun = self._tasks.launch(task)
        if group.state is not GroupState.RUNNING:
            group = group.changed(state=GroupState.RUNNING, started_at=now, finished_at=None, updated_at=now)
        self._ledger.put(group)
        self._follow(group, self._made(group).due())
        return begun

    def join(self, group: Group, tasks: Sequence[Task], task: Task) -> None:
        """Add ``task`` to a group that runs, which has ``tasks``; it is started when nothing is left that it waits for.

        Raises ``ConflictError`` when it could never run.
        """
        active = [each for each in tasks if each.state.active]
        if all(each.stopping for each in active) and not any(each.state is TaskState.PENDING for each in tasks):
            raise ConflictError(f"{group.kind} {group.id} is being stopped", code="group_ended")
        if reason := Course(nodes_of([*tasks, task]), Mode(group.mode)).never_runs(task.id):
            raise ConflictError(
                f"task {task.spec.name!r} would never run in {group.kind} {group.id}: {reason}", code="never_runs"
            )
        self._ledger.put(task, group)
        self.begin_rest(group, {task.id})

    def halt(self, group: Group) -> None:
        """What has not begun never will; what runs is stopped, and the group ends when that has ended."""
        course = self._courses.get(group.id) or self._made(group)
        self._follow(group, course.halt(f"the {group.kind} was stopped"))

    def reconsider(self, task: Task) -> None:
        """A task has ended otherwise than was said before; so may its group."""
        group = self._ledger.group(task.group_id) if task.group_id is not None else None
        if group is not None:
            self._follow(group, self._made(group).due())

    def forget(self, group_id: str) -> None:
        """The group is gone, or what a task of it waits for is about to be changed."""
        self._courses.pop(group_id, None)

    def _task_ended(self, task: Task) -> None:
        group = self._ledger.group(task.group_id) if task.group_id is not None else None
        if group is None or group.state is not GroupState.RUNNING:
            return
        course = self._courses.get(group.id)
        self._follow(group, self._made(group).due() if course is None else course.ended(task.id, task.state))

    def _made(self, group: Group) -> Course:
        made = Course(nodes_of(self._ledger.tasks_of_group(group.id)), Mode(group.mode))
        self._courses[group.id] = made
        return made

    def _follow(self, group: Group, plan: Plan) -> None:
        underway = self._plans.get(group.id)
        if underway is not None:
            underway.append(plan)
            return
        self._plans[group.id] = left = deque([plan])
        try:
            while left:
                self._carry_out(group, left.popleft())
        except BaseException:
            self._courses.pop(group.id, None)  # it says more than was done
            raise
        finally:
            del self._plans[group.id]
        if not self._courses[group.id].open:
            self._end_of(group)

    def _carry_out(self, group: Group, plan: Plan) -> None:
        for task_id, reason in plan.skip:
            self._end(self._member(task_id), TaskEvent.SKIPPED, reason, "skipped")
        for task_id in plan.start:
            task = self._member(task_id)
            try:
                self._tasks.launch(task)
            except SwashplateError as error:
                self._task_ended(self._end(task, TaskEvent.REFUSED, error.sentence, error.code))
        for task_id in plan.stop:
            if not (task := self._member(task_id)).stopping and task.state.active:
                self._attempts.stop(task)

    def _member(self, task_id: str) -> Task:
        task = self._ledger.task(task_id)
        assert task is not None, "all tasks of a group that runs are in memory"
        return task

    def _end(self, task: Task, event: TaskEvent, reason: str, code: str) -> Task:
        now = self._clock()
        ended = task.changed(
            state=next_task(task.state, event), error=reason, code=code, updated_at=now, finished_at=now
        )
        self._ledger.put(ended)
        self._attempts.followers.ended(ended)
        return ended

    def _end_of(self, group: Group) -> None:
        del self._courses[group.id]
        tasks = self._ledger.tasks_of_group(group.id)
        now = self._clock()
        state = GroupState(group_state(nodes_of(tasks), Mode(group.mode)))
        ended = group.changed(state=state, finished_at=now, updated_at=now)
        self._ledger.put(ended)
        self._ledger.then(lambda: self._tell_ended(ended, tasks))

    def _tell_ended(self, group: Group, tasks: Sequence[Task]) -> None:
        log.info("group ended", group_id=group.id, kind=group.kind, name=group.name, status=group.state.name.lower())
        for callback in self.on_ended:
            callback(group, tasks)


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
