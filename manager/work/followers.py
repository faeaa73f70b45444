"""Who follows tasks without taking part, and is told of what is durable."""

from __future__ import annotations

import asyncio
from typing import Protocol

from manager.state.ledger import Ledger
from manager.state.records import Task
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import TaskCreate

log = logging.get("tasks")


class Follower(Protocol):
    def task_refused(self, spec: TaskCreate, error: SwashplateError) -> None: ...

    def task_started(self, task: Task) -> None: ...

    def task_ended(self, task: Task) -> None:
        """Perhaps more than once: those that ended shortly before a restart are told of again."""


class Followers:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._followers: list[Follower] = []
        self._ends: dict[str, asyncio.Future[None]] = {}

    def join(self, *followers: Follower) -> None:
        self._followers += followers

    def refused(self, spec: TaskCreate, error: SwashplateError) -> None:
        """Nothing was made of this, so there is nothing to wait for."""
        for follower in self._followers:
            follower.task_refused(spec, error)

    def started(self, task: Task) -> None:
        """Tell of a start that was just put, when it is durable."""
        self._ledger.then(lambda: self._tell_started(task))

    def _tell_started(self, task: Task) -> None:
        log.info("task started", task_id=task.id, name=task.spec.name, run=task.run)
        for follower in self._followers:
            follower.task_started(task)

    def ended(self, task: Task) -> None:
        """Tell of an end that was just put, when it is durable; never when it will not be."""
        self._ledger.then(lambda: self._tell_ended(task), about=task.id)

    def _tell_ended(self, task: Task) -> None:
        end = self._ends.pop(task.id, None)
        if end is not None and not end.done():
            end.set_result(None)
        log.info("task ended", task_id=task.id, status=task.state.name.lower(), error=task.error)
        for follower in self._followers:
            follower.task_ended(task)

    def end_of(self, task_id: str) -> asyncio.Future[None]:
        """Done when the present run of an active task has ended, and that is durable."""
        return self._ends.setdefault(task_id, asyncio.get_running_loop().create_future())
