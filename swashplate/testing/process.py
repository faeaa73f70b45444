"""A process of a simulation: tasks that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def process_of(context: Context) -> Process | None:
    return context.get(_PROCESS)


class _Graveyard(Protocol):
    def bury(self, process: Process) -> None: ...


class Process:
    """Whatever is started in it, and whatever that starts, belongs to it. ``kill`` ends it all between two steps, as SIGKILL
    does: no code of it runs any more, and what it had only in memory is gone.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 64
        self._context = copy_context()
        self._context.run(_PROCESS.set, self)

    def start(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """A task of this process."""
        return asyncio.get_running_loop().create_task(work, name=name or self.name, context=self._context.copy())

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function`` as a part of this process: what it starts belongs to it."""
        return self._context.copy().run(function, *args)

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            loop: Any = asyncio.get_running_loop()
            graveyard: _Graveyard = loop
            graveyard.bury(self)

    def holds(self, task: asyncio.Task[Any]) -> None:
        """Held, so that a killed task is not cleaned up by chance while the simulation goes on."""
        self.tasks.append(task)
        if len(self.tasks) >= self._prune_at:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._prune_at = max(64, 2 * len(self.tasks))
