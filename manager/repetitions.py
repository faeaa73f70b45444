"""Requests that are sent again under the same idempotency key, so that they make one task."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from manager.binaries import examined
from manager.state import store
from manager.state.ledger import Ledger
from manager.state.records import Task
from swashplate.database import Database
from swashplate.errors import ConflictError
from swashplate.messages import TaskCreate


def fingerprint(spec: TaskCreate) -> bytes:
    """What makes two requests under one key the same: everything but how long to wait."""
    text = spec.model_dump_json(exclude={"timeout_s"}, exclude_defaults=True)
    return hashlib.sha256(text.encode()).digest()


class Repetitions:
    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._underway: dict[str, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Requests under one key go one after the other."""
        while key in self._underway:
            await asyncio.wait([self._underway[key]])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._underway[key] = done
        try:
            yield
        finally:
            del self._underway[key]
            done.set_result(None)

    async def known(self, key: str, spec: TaskCreate) -> Task | None:
        """The durable task that this very request made. Raises ``ConflictError`` when another one used the key."""
        if any(task.idempotency_key == key for task in self._ledger.unwritten_tasks()):
            await self._ledger.durable()
        known = await self._database.run(lambda db: store.task_by_key(db, key))
        if known is None:
            return None
        if spec.file:
            _, digest = await examined(spec.file)
            spec = spec.model_copy(update={"file": digest})
        if known.fingerprint != fingerprint(spec):
            raise ConflictError(
                f"idempotency key {key!r} was used for another request",
                code="idempotency_conflict",
                hint=f"it made task {known.id}",
            )
        return known
