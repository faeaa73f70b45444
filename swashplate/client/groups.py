"""Jobs and workflows: many tasks that are created, started and stopped together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

from swashplate.client.answers import Acknowledged, Group, Job, Page, Workflow
from swashplate.client.tasks import AWAY_S, PAGE, SLACK_S, Spec, body_of, idempotent
from swashplate.client.transport import Transport, every, path_of, query_of
from swashplate.client.waiting import LONG_STEP_S, WATCHING_STEP_S, changes, end_of

G = TypeVar("G", bound=Group)


class _Groups(Generic[G]):
    """``kind`` is what the manager calls them, such as ``Job``: the paths and the fields follow from it."""

    def __init__(self, transport: Transport, kind: type[G]) -> None:
        self._transport = transport
        self._kind = kind
        self._many = f"{kind.noun}s"

    async def _create(self, body: dict[str, Any], key: str | None) -> G:
        return await self._transport.post(self._kind, f"/{self._many}", body, headers=idempotent(key), again=True)

    async def get(self, group_id: str, *, wait: float = 0) -> G:
        """``wait``: answer when it has ended, or that many seconds are over."""
        path = path_of(self._many, group_id) + query_of(wait=f"{wait:g}" if wait else None)
        return await self._transport.get(self._kind, path, timeout=wait + SLACK_S)

    async def list(self, *, offset: int = 0, limit: int = PAGE, status: str = "") -> Page[G]:
        """One page, newest first; ``status`` is pending, running, completed or failed."""
        path = f"/{self._many}"
        return await self._transport.page(self._kind, self._many, path, offset=offset, limit=limit, status=status)

    async def every(self, /, **filters: Any) -> AsyncIterator[G]:
        """All that ``list`` with these filters has on all its pages."""

        async def page(offset: int) -> Page[G]:
            return await self.list(offset=offset, **filters)

        async for group in every(page, lambda group: group.id):
            yield group

    async def start(self, group_id: str) -> Acknowledged:
        return await self._transport.post(Acknowledged, path_of(self._many, group_id) + "/start")

    async def stop(self, group_id: str) -> Acknowledged:
        return await self._transport.post(Acknowledged, path_of(self._many, group_id) + "/stop")

    async def delete(self, group_id: str) -> None:
        await self._transport.call("DELETE", path_of(self._many, group_id))

    def watch(self, group_id: str, *, timeout: float | None = None, away_s: float = AWAY_S) -> AsyncIterator[G]:
        """The whole now and whenever it has changed, until it has ended or ``timeout`` seconds are over."""
        return changes(
            lambda wait: self.get(group_id, wait=wait), timeout=timeout, away_s=away_s, step_s=WATCHING_STEP_S
        )

    async def wait(self, group_id: str, *, timeout: float | None = None, away_s: float = AWAY_S) -> G:
        """The whole when it has ended; raises as ``Tasks.wait`` does."""
        found = changes(lambda wait: self.get(group_id, wait=wait), timeout=timeout, away_s=away_s, step_s=LONG_STEP_S)
        return await end_of(found, f"{self._kind.noun} {group_id}", timeout)


class Jobs(_Groups[Job]):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, Job)

    async def create(
        self,
        name: str,
        tasks: Sequence[Spec],
        *,
        execution_mode: str = "parallel",
        start: bool = False,
        key: str | None = None,
    ) -> Job:
        """``execution_mode`` is parallel, sequential (one after another) or configurable (as the tasks' depends_on says)."""
        body = {"name": name, "execution_mode": execution_mode, "start": start, "tasks": [body_of(t) for t in tasks]}
        return await self._create(body, key)


class Workflows(_Groups[Workflow]):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, Workflow)

    async def create(
        self, tasks: Sequence[Spec], *, name: str = "", start: bool = False, key: str | None = None
    ) -> Workflow:
        """``depends_on`` of a task names other tasks of the same call, by name or by the ``id`` given to them."""
        body: dict[str, Any] = {"start": start, "tasks": [body_of(t) for t in tasks]}
        if name:
            body["name"] = name
        return await self._create(body, key)
