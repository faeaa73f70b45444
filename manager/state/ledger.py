"""What is true of everything that has not ended, in memory; ``Commits`` bring it to the database.

A record that is put counts at once, for every decision that follows. Its effects on others (an answer, a message, an
acknowledgement) must wait until it is durable.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from manager.state import invocation_store, store
from manager.state.commits import Commits, Effect
from manager.state.records import Attempt, AttemptKey, Erased, Group, GroupState, Invocation, Record, Task, Untold
from manager.state.refusals import Refusal
from swashplate.database import Database
from swashplate.errors import NotFoundError, SwashplateError, UnavailableError

RECENT, RECENT_MOST_CHARS = 4096, 16 * 1024
"""How many tasks that are only waiting to be started, or have ended, are remembered, and the longest of them."""

Loaded = TypeVar("Loaded")


class Ledger:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._tasks: dict[str, Task] = {}
        self._attempts: dict[str, dict[int, Attempt]] = {}
        self._groups: dict[str, Group] = {}
        self._members: dict[str, set[str]] = {}
        self._invocations: dict[str, Invocation] = {}
        self._commits = Commits(database)
        self._commits.on_written = self._written
        self._loading = 0
        self._seq = 0
        self._invocation_seq = 0
        self._erased: set[str] = set()
        """Ids of what is being deleted, until nobody can read it any more."""
        self._recent: OrderedDict[str, Task] = OrderedDict()
        """Tasks as they are on the disk, that memory need not have: most often they are asked for soon."""
        self._doubtful: set[str] = set()
        """Ids of tasks and groups that may not be worth their place in memory."""

    @property
    def trouble(self) -> SwashplateError | None:
        """Why nothing can be written now."""
        return self._commits.trouble

    def on_refused(self, callback: Callable[[Refusal], Any]) -> None:
        """Called with records that the database will never store; what takes their place is to be put at once."""

        def refused(refusal: Refusal) -> None:
            callback(refusal)
            self._outdate([fault.record for fault in refusal.faults if not isinstance(fault.record, Erased)])

        self._commits.on_refused = refused

    async def open(self) -> None:
        """Load what has not ended; then write whatever is put."""

        def load(db: Connection) -> list[Record]:
            self._seq, self._invocation_seq = store.last_seq(db), invocation_store.last_invocation_seq(db)
            groups, members = store.active_groups(db), store.tasks_of_active_groups(db)
            attempts = store.attempts_of_active(db)
            return [*groups, *members, *store.active_tasks(db), *attempts, *invocation_store.open_invocations(db)]

        for record in await self._database.run(load):
            self._remember(record)
        self._commits.open()

    async def close(self) -> None:
        """What was put is written first, unless the database cannot write now."""
        await self._commits.close()

    # What is in memory.

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

    async def fetch(self, task_id: str) -> Task:
        """The task as it is now; decide without waiting for anything else, since it may be forgotten then.

        Raises ``NotFoundError``.
        """
        known = self._tasks.get(task_id) or self._recall(task_id)
        if known is not None:
            return known
        found = await self._load(lambda db: store.get_task(db, task_id))
        if found is None or task_id in self._erased:
            raise NotFoundError(f"there is no task {task_id}", code="task_not_found")
        self._doubtful.add(task_id)
        if task_id not in self._tasks:
            self._remember(found)
        return self._tasks[task_id]

    def _recall(self, task_id: str) -> Task | None:
        recent = self._recent.get(task_id)
        if recent is not None:
            self._remember(recent)
            self._doubtful.add(task_id)
            asyncio.get_running_loop().call_soon(self._forget)
        return recent

    def on_disk(self, task_id: str) -> Task | None:
        """A task as whoever reads the database would find it; None when only the database can tell."""
        task = self._tasks.get(task_id)
        if task is None:
            return self._recent.get(task_id)
        return task if self._commits.is_written((Task, task_id)) else None

    def unwritten_tasks(self) -> Iterator[Task]:
        """As the database does not know them yet."""
        yield from (record for _, record in self._commits.unwritten() if isinstance(record, Task))

    async def fetch_group(self, group_id: str) -> tuple[Group, list[Task]]:
        """A job or workflow with its tasks, as ``fetch`` does."""
        known = self._groups.get(group_id)
        if known is not None:
            return known, self.tasks_of_group(group_id)

        def read(db: Connection) -> tuple[Group | None, list[Task]]:
            return store.get_group(db, group_id), store.tasks_of_group(db, group_id)

        group, tasks = await self._load(read)
        if group is None or group_id in self._erased:
            raise NotFoundError(f"there is no job or workflow {group_id}", code="group_not_found")
        self._doubtful.update((group_id, *(task.id for task in tasks)))
        if group_id not in self._groups:
            self._remember(group)
            for task in tasks:
                if task.id not in self._tasks:
                    self._remember(task)
        return self._groups[group_id], self.tasks_of_group(group_id)

    async def _load(self, work: Callable[[Connection], Loaded]) -> Loaded:
        """While this reads, nothing is forgotten: what it reads may be older than what memory has by then."""
        self._loading += 1
        try:
            return await self._database.run(work)
        finally:
            self._loading -= 1
            asyncio.get_running_loop().call_soon(self._forget)

    # Changes.

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def next_invocation_seq(self) -> int:
        self._invocation_seq += 1
        return self._invocation_seq

    def check(self) -> None:
        """Raises ``UnavailableError`` when the database cannot write now; ask before deciding what a user asked for."""
        if self.trouble is not None:
            raise UnavailableError(self.trouble.sentence, code="database_unavailable")

    async def health(self) -> None:
        """A health check: raises ``UnavailableError`` when the database does not answer, or does not write."""
        self.check()
        await self._database.check()

    def put(self, *records: Record) -> None:
        for record in records:
            self._remember(record)
            self._commits.put((type(record), record.key), record)

    def erase(self, *records: Task | Group | Untold) -> None:
        """Delete an ended task, a group that has no task any more, or what has been told."""
        for record in records:
            match record:
                case Task():
                    self._forget_task(record)
                    self._erased.add(record.id)
                case Group():
                    self._groups.pop(record.id, None)
                    self._erased.add(record.id)
                case Untold():
                    pass
            self._commits.put((type(record), record.key), Erased(record.key))

    def then(self, effect: Effect, *, about: str = "") -> None:
        """Call ``effect`` once everything that was put so far is durable; never when that will not be of ``about``, the id of
        a task, a group or an invocation.
        """
        self._commits.then(effect, about)

    async def durable(self, *about: str) -> None:
        """Return once everything that was put so far is durable; raises ``UnavailableError`` when that takes too long, and
        ``NotStorableError`` when it will never be of what has one of the ids ``about``.
        """
        await self._commits.durable(frozenset(about))

    async def confirmed(self, task: Task) -> Task:
        """``task`` as it is now, or later, once that is durable; raises as ``durable`` does."""
        now = self._tasks.get(task.id, task)
        await self.durable(task.id)
        return self.on_disk(task.id) or now

    def _remember(self, record: Record) -> None:
        match record:
            case Task():
                self._recent.pop(record.id, None)
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

    def _forget(self) -> None:
        """Drop from memory what has ended and is written, and what was only looked at."""
        if self._loading:
            return
        unwritten = {key for (_, key), _ in self._commits.unwritten()}
        for doubtful in self._doubtful:
            group = self._groups.get(doubtful)
            if group is not None and group.state is not GroupState.RUNNING and doubtful not in unwritten:
                del self._groups[doubtful]
        for doubtful in self._doubtful:
            task = self._tasks.get(doubtful)
            if task is not None and not self._kept(task) and doubtful not in unwritten:
                self._forget_task(task)
                self._remember_recent(task)
        self._doubtful = {key for key in self._doubtful if key in unwritten}
        self._erased = {key for key in self._erased if key in unwritten}

    def _remember_recent(self, task: Task) -> None:
        if len(task.spec_text) + len(task.result or "") > RECENT_MOST_CHARS:
            return
        self._recent[task.id] = task
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _forget_task(self, task: Task) -> None:
        self._tasks.pop(task.id, None)
        self._recent.pop(task.id, None)
        self._attempts.pop(task.id, None)
        if task.group_id is not None:
            members = self._members.get(task.group_id, set())
            members.discard(task.id)
            if not members:
                self._members.pop(task.group_id, None)

    def _kept(self, task: Task) -> bool:
        return task.state.active or (task.group_id is not None and task.group_id in self._groups)

    def _written(self, records: Sequence[Record]) -> None:
        self._outdate(records)
        self._forget()

    def _outdate(self, written: Sequence[Record]) -> None:
        for record in written:
            match record:
                case Task() if not record.state.active:
                    self._doubtful.add(record.id)
                case Group() if record.state is not GroupState.RUNNING:
                    self._doubtful.update((record.id, *(task.id for task in self.tasks_of_group(record.id))))
                case Attempt() if record.state.ended:
                    self._forget_replaced(record)
                case Invocation() if record.state.ended:
                    self._invocations.pop(record.id, None)
                case _:
                    pass

    def _forget_replaced(self, attempt: Attempt) -> None:
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
