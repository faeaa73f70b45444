"""What is true now of everything that has not ended, in memory: found by its id, and by what it belongs to.

The latest that was put of each, whether or not it is durable.
"""

from __future__ import annotations

from manager.state.records import Attempt, AttemptKey, Group, GroupState, Invocation, Record, Task, Untold


class Present:
    """Also tasks of jobs and workflows that run, and whatever somebody looks at now, may have ended."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._attempts: dict[str, dict[int, Attempt]] = {}
        self._groups: dict[str, Group] = {}
        self._members: dict[str, set[str]] = {}
        self._invocations: dict[str, Invocation] = {}

    def task(self, task_id: str) -> Task | None:
        """A task that has not ended, or that belongs to a job or workflow that has not."""
        return self._tasks.get(task_id)

    def active_tasks(self) -> list[Task]:
        return [task for task in self._tasks.values() if task.state.active]

    def attempt(self, key: AttemptKey) -> Attempt | None:
        """An attempt of the present run of an active task: one that is open, or the last of its target."""
        return self._attempts.get(key.task_id, {}).get(key.number)

    def attempts_of(self, task_id: str) -> list[Attempt]:
        """The attempts of the present run of an active task, without those that others replaced."""
        return list(self._attempts.get(task_id, {}).values())

    def open_attempts(self) -> list[Attempt]:
        return [each for run in self._attempts.values() for each in run.values() if not each.state.ended]

    def invocation(self, invocation_id: str) -> Invocation | None:
        """One that has not ended."""
        return self._invocations.get(invocation_id)

    def open_invocations(self) -> list[Invocation]:
        """In the order in which they were asked for."""
        found = [each for each in self._invocations.values() if not each.state.ended]
        return sorted(found, key=lambda each: each.seq)

    def group(self, group_id: str) -> Group | None:
        """A job or workflow that runs."""
        return self._groups.get(group_id)

    def running_groups(self) -> list[Group]:
        return [group for group in self._groups.values() if group.state is GroupState.RUNNING]

    def tasks_of_group(self, group_id: str) -> list[Task]:
        """Of one that runs, in the order in which they were given."""
        members = [self._tasks[task_id] for task_id in self._members.get(group_id, ())]
        return sorted(members, key=lambda task: task.position)

    def is_needed(self, task: Task) -> bool:
        """Is it active, or does a job or workflow that is here have it?"""
        return task.state.active or (task.group_id is not None and task.group_id in self._groups)

    def remember(self, record: Record) -> None:
        match record:
            case Task():
                before = self._tasks.get(record.id)
                if before is not None and before.run != record.run:
                    self._attempts.pop(record.id, None)
                self._tasks[record.id] = record
                if record.group_id is not None:
                    self._members.setdefault(record.group_id, set()).add(record.id)
            case Attempt():
                self._attempts.setdefault(record.task_id, {})[record.number] = record
            case Group():
                self._groups[record.id] = record
            case Invocation():
                self._invocations[record.id] = record
            case Untold():
                pass  # whoever tells it knows

    def forget(self, record: Record) -> None:
        match record:
            case Task():
                self._forget_task(record)
            case Group():
                self._groups.pop(record.id, None)
            case Invocation():
                self._invocations.pop(record.id, None)
            case _:
                pass

    def _forget_task(self, task: Task) -> None:
        self._tasks.pop(task.id, None)
        self._attempts.pop(task.id, None)
        if task.group_id is not None:
            members = self._members.get(task.group_id, set())
            members.discard(task.id)
            if not members:
                self._members.pop(task.group_id, None)

    def forget_replaced(self, attempt: Attempt) -> None:
        """Only the last attempt for a target says how its run went; and the denials since one was taken, who was asked."""
        run = self._attempts.get(attempt.task_id, {})
        if attempt.refused:
            return
        if attempt.accepted_at is not None:
            for other in list(run.values()):
                if other.number < attempt.number and other.target == attempt.target and other.refused:
                    del run[other.number]
        if any(other.number > attempt.number and other.target == attempt.target for other in run.values()):
            run.pop(attempt.number, None)
