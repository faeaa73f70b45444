"""Several who want the same thing at the same time share one piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class SingleFlight(Generic[Value]):
    """Work by key; nothing is remembered once it ended. A waiter that is cancelled does not end it for the others."""

    def __init__(self) -> None:
        self._flying: dict[Hashable, asyncio.Task[Value]] = {}

    async def do(self, key: Hashable, work: Callable[[], Awaitable[Value]]) -> Value:
        task = self._flying.get(key)
        if task is None:

            async def run() -> Value:
                return await work()

            task = asyncio.get_running_loop().create_task(run(), name=f"flight:{key}")
            self._flying[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def _landed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._flying.pop(key, None)
        if not task.cancelled():
            task.exception()  # the waiters raise it; when all of them left, nobody needs to hear of it

    async def close(self) -> None:
        for task in list(self._flying.values()):
            task.cancel()
        await asyncio.gather(*self._flying.values(), return_exceptions=True)
