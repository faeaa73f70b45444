"""Tasks looked at: one, as it is or once it has ended, and pages of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from manager.state import store
from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey, Task
from swashplate.database import Database
from swashplate.errors import NotFoundError, SwashplateError
from swashplate.messages import TaskCreate


class TaskArchive:
    """Follows tasks, as an observer of attempts, to tell who waits for an end."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    async def get(self, task_id: str) -> Task:
        """As it is on the disk: what is not durable yet may never have been."""
        known = self._ledger.on_disk(task_id)
        if known is not None:
            return known

        def read(db: Connection) -> Task:
            task = store.get_task(db, task_id)
            if task is None:
                raise NotFoundError(f"there is no task {task_id}", code="task_not_found")
            return task

        return await self._database.run(read)

    async def ended(self, task_id: str, wait: float) -> Task:
        """The task once it has ended, or as it is after ``wait`` seconds."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(task_id, [])
        waiting.append(ended)  # before it is read: it may end while it is
        try:
            known = self._ledger.task(task_id)
            if not wait or known is None or not known.state.active:
                task = await self.get(task_id)
                if task.state.ended or not wait:
                    return task
            await asyncio.wait([ended], timeout=wait)
        finally:
            waiting.remove(ended)
            if not waiting and self._waiting.get(task_id) is waiting:
                del self._waiting[task_id]
        return await self.get(task_id)

    def task_ended(self, task: Task) -> None:
        for waiting in self._waiting.get(task.id, ()):
            if not waiting.done():
                waiting.set_result(None)

    def task_started(self, task: Task) -> None: ...

    def task_refused(self, spec: TaskCreate, error: SwashplateError) -> None: ...

    async def attempts(self, task_id: str) -> list[Attempt]:
        def read(db: Connection) -> list[Attempt]:
            found = store.attempts_of(db, task_id)
            if not found and store.get_task(db, task_id) is None:
                raise NotFoundError(f"there is no task {task_id}", code="task_not_found")
            return found

        return await self._database.run(read)

    async def attempt(self, key: AttemptKey) -> Attempt | None:
        return await self._database.run(lambda db: store.get_attempt(db, key))

    async def list(self, offset: int, limit: int, filters: Mapping[str, Any]) -> tuple[int, list[Task]]:
        """The total, and one page, newest first; a long result is ``store.LEFT_OUT``."""
        return await self._database.run(lambda db: store.list_tasks(db, offset, limit, filters))
