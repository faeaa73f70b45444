"""Invocations as their callers look at them: in the database, where what has ended is kept for a while."""

from __future__ import annotations

import asyncio

from manager.attempt_files import AttemptFiles
from manager.state import invocation_store
from manager.state.ledger import Ledger
from manager.state.records import Invocation
from swashplate import logging
from swashplate.database import Database
from swashplate.errors import NotFoundError
from swashplate.service import Tasks

log = logging.get("invocations")

KEPT = 1000
"""How many ended ones of a task can still be looked at, at least; older ones go, a hundred at a time."""
PRUNED_EVERY = 100


class InvocationArchive:
    def __init__(self, database: Database, ledger: Ledger, files: AttemptFiles) -> None:
        self._database = database
        self._ledger = ledger
        self._files = files
        self._awaited: dict[str, list[asyncio.Future[Invocation]]] = {}
        self._unpruned: dict[str, int] = {}
        self._pruning: set[str] = set()
        self._work = Tasks(log)

    async def close(self) -> None:
        await self._work.close()

    async def get(self, task_id: str, invocation_id: str, wait: float = 0.0) -> Invocation:
        """One invocation, once it has ended or as it is after ``wait`` seconds. Raises ``NotFoundError``."""
        ended: asyncio.Future[Invocation] = asyncio.get_running_loop().create_future()
        awaited = self._awaited.setdefault(invocation_id, [])
        awaited.append(ended)  # before it is read: it may end while it is
        try:
            found = await self._read(task_id, invocation_id)
            if found.state.ended or wait <= 0:
                return found
            await asyncio.wait([ended], timeout=wait)
        finally:
            awaited.remove(ended)
            if not awaited and self._awaited.get(invocation_id) is awaited:
                del self._awaited[invocation_id]
        return ended.result() if ended.done() else await self._read(task_id, invocation_id)

    async def _read(self, task_id: str, invocation_id: str) -> Invocation:
        found = await self._database.run(lambda db: invocation_store.get_invocation(db, task_id, invocation_id))
        if found is None:
            raise NotFoundError(f"task {task_id} has no invocation {invocation_id}", code="invocation_not_found")
        return found

    async def list(self, task_id: str, offset: int, limit: int) -> tuple[int, list[Invocation]]:
        """The total, and one page, newest first, without reports. Raises ``NotFoundError``."""
        total, page = await self._database.run(lambda db: invocation_store.list_invocations(db, task_id, offset, limit))
        if not total:
            await self._ledger.fetch(task_id)
        return total, page

    def ended(self, invocation: Invocation) -> None:
        """It is durable that it has: tell those who wait, and make room."""
        for awaited in self._awaited.get(invocation.id, ()):
            if not awaited.done():
                awaited.set_result(invocation)
        task_id = invocation.task_id
        task = self._ledger.task(task_id)
        unpruned = self._unpruned.pop(task_id, PRUNED_EVERY) + 1
        if task is not None and task.state.active:
            self._unpruned[task_id] = unpruned % PRUNED_EVERY
        if unpruned >= PRUNED_EVERY and task_id not in self._pruning:
            self._pruning.add(task_id)
            self._work.start(self._prune(task_id), f"old invocations of {task_id}")

    def forget(self, task_id: str) -> None:
        """The task has ended."""
        self._unpruned.pop(task_id, None)

    async def _prune(self, task_id: str) -> None:
        self._pruning.discard(task_id)  # what ends from now on may be too late for this time
        gone = await self._database.run(lambda db: invocation_store.prune_invocations(db, task_id, KEPT))
        self._files.remove_calls(task_id, gone)
