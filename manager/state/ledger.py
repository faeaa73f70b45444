"""What is present in memory, together with the database, to which ``Commits`` bring it.

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
from manager.state.present import Present
from manager.state.records import Attempt, Erased, Group, GroupState, Invocation, Record, Task, Untold
from manager.state.refusals import Refusal
from swashplate.database import Database
from swashplate.errors import NotFoundError, SwashplateError, UnavailableError

RECENT, RECENT_MOST_CHARS = 4096, 16 * 1024
"""How many tasks that are only waiting to be started, or have ended, are remembered, and the longest of them."""

Loaded = TypeVar("Loaded")


class Ledger(Present):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
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
            self._take(record)
        self._commits.open()

    async def close(self) -> None:
        """What was put is written first, unless the database cannot write now."""
        await self._commits.close()

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
            self._take(found)
        return self._tasks[task_id]

    def _recall(self, task_id: str) -> Task | None:
        recent = self._recent.get(task_id)
        if recent is not None:
            self._take(recent)
            self._doubtful.add(task_id)
            asyncio.get_running_loop().call_soon(self._tidy)
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
            self._take(group)
            for task in tasks:
                if task.id not in self._tasks:
                    self._take(task)
        return self._groups[group_id], self.tasks_of_group(group_id)

    async def _load(self, work: Callable[[Connection], Loaded]) -> Loaded:
        """While this reads, nothing is forgotten: what it reads may be older than what memory has by then."""
        self._loading += 1
        try:
            return await self._database.run(work)
        finally:
            self._loading -= 1
            asyncio.get_running_loop().call_soon(self._tidy)

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
            self._take(record)
            self._commits.put((type(record), record.key), record)

    def erase(self, *records: Task | Group | Untold) -> None:
        """Delete an ended task, a group that has no task any more, or what has been told."""
        for record in records:
            match record:
                case Task() | Group():
                    self.forget(record)
                    self._recent.pop(record.id, None)
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

    def _take(self, record: Record) -> None:
        """Into memory; what was remembered of a task as it was is outdated."""
        if isinstance(record, Task):
            self._recent.pop(record.id, None)
        self.remember(record)

    def _tidy(self) -> None:
        """Drop from memory what has ended and is written, and what was only looked at."""
        if self._loading:
            return
        unwritten = {key for (_, key), _ in self._commits.unwritten()}
        for doubtful in self._doubtful:
            group = self._groups.get(doubtful)
            if group is not None and group.state is not GroupState.RUNNING and doubtful not in unwritten:
                self.forget(group)
        for doubtful in self._doubtful:
            task = self._tasks.get(doubtful)
            if task is not None and not self.is_needed(task) and doubtful not in unwritten:
                self.forget(task)
                self._remember_recent(task)
        self._doubtful = {key for key in self._doubtful if key in unwritten}
        self._erased = {key for key in self._erased if key in unwritten}

    def _remember_recent(self, task: Task) -> None:
        if len(task.spec_text) + len(task.result or "") > RECENT_MOST_CHARS:
            return
        self._recent[task.id] = task
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _written(self, records: Sequence[Record]) -> None:
        self._outdate(records)
        self._tidy()

    def _outdate(self, written: Sequence[Record]) -> None:
        for record in written:
            match record:
                case Task() if not record.state.active:
                    self._doubtful.add(record.id)
                case Group() if record.state is not GroupState.RUNNING:
                    self._doubtful.update((record.id, *(task.id for task in self.tasks_of_group(record.id))))
                case Attempt() if record.state.ended:
                    self.forget_replaced(record)
                case Invocation() if record.state.ended:
                    self.forget(record)
                case _:
                    pass
