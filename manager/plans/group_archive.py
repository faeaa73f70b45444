"""Jobs and workflows looked at: one, as it is or once it has ended, and pages of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from manager.plans.progress import Progress
from manager.state import store
from manager.state.records import Group, GroupState, Task
from swashplate.database import Database
from swashplate.errors import NotFoundError

MOST_TASKS_LISTED = 100
"""On a page of groups, newest first, as on one of tasks; a group whose tasks do not fit any more is listed without them."""


class Whole(NamedTuple):
    """A job or a workflow with all its tasks, in the order in which they were given."""

    group: Group
    tasks: list[Task]


class Listed(NamedTuple):
    """As it is in a list: with its tasks, unless they are too many, and how many there are and have ended."""

    group: Group
    tasks: list[Task] | None
    total: int
    ended: int


class GroupArchive:
    """``kind`` is ``job`` or ``workflow`` everywhere; an id of the other kind is not found."""

    def __init__(self, database: Database, progress: Progress) -> None:
        self._database = database
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        progress.on_ended.append(self._ended)

    async def get(self, kind: str, group_id: str, wait: float = 0) -> Whole:
        """Once it has ended, or as it is after ``wait`` seconds."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(group_id, [])
        waiting.append(ended)  # before it is read: it may end while it is
        try:
            whole = await self._database.run(lambda db: read_whole(db, kind, group_id))
            if not wait or whole.group.state in {GroupState.COMPLETED, GroupState.FAILED}:
                return whole
            await asyncio.wait([ended], timeout=wait)
        finally:
            waiting.remove(ended)
            if not waiting and self._waiting.get(group_id) is waiting:
                del self._waiting[group_id]
        return await self._database.run(lambda db: read_whole(db, kind, group_id))

    def _ended(self, group: Group, _tasks: Sequence[Task]) -> None:
        for waiting in self._waiting.get(group.id, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def list(
        self, kind: str, offset: int, limit: int, state: GroupState | None = None
    ) -> tuple[int, list[Listed]]:
        """The total, and one page, newest first, with ``MOST_TASKS_LISTED`` tasks at most."""
        return await self._database.run(lambda db: _listed(db, *store.list_groups(db, kind, offset, limit, state)))


def read_whole(db: Connection, kind: str, group_id: str) -> Whole:
    """Raises ``NotFoundError``."""
    group = store.get_group(db, group_id)
    if group is None or group.kind != kind:
        raise not_found(kind, group_id)
    return Whole(group, store.tasks_of_group(db, group_id))


def _listed(db: Connection, total: int, page: Sequence[Group]) -> tuple[int, list[Listed]]:
    states, room = store.states_of_groups(db, [group.id for group in page]), MOST_TASKS_LISTED
    sizes = {group_id: sum(counted.values()) for group_id, counted in states.items()}
    ended = {group_id: sum(n for state, n in counted.items() if state.ended) for group_id, counted in states.items()}
    tasks: dict[str, list[Task]] = {}
    for group in page:
        if sizes[group.id] <= room:
            tasks[group.id], room = [], room - sizes[group.id]
    for task in store.tasks_listed(db, tasks):
        tasks[task.group_id or ""].append(task)
    return total, [Listed(each, tasks.get(each.id), sizes[each.id], ended[each.id]) for each in page]


def not_found(kind: str, group_id: str) -> NotFoundError:
    return NotFoundError(f"there is no {kind} {group_id}", code="group_not_found")
