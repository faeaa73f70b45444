"""Proplets as the manager knows them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from swashplate.client.answers import Metric, Page, Proplet, Seen
from swashplate.client.tasks import PAGE
from swashplate.client.transport import Transport, every, path_of


class Proplets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, proplet_id: str) -> Proplet:
        return await self._transport.get(Proplet, path_of("proplets", proplet_id))

    async def list(self, *, offset: int = 0, limit: int = PAGE, status: str = "") -> Page[Proplet]:
        """One page; ``status`` is active or inactive."""
        return await self._transport.page(Proplet, "proplets", "/proplets", offset=offset, limit=limit, status=status)

    async def every(self, *, status: str = "") -> AsyncIterator[Proplet]:
        async def page(offset: int) -> Page[Proplet]:
            return await self.list(offset=offset, limit=1000, status=status)

        async for proplet in every(page, lambda proplet: proplet.id):
            yield proplet

    async def delete(self, proplet_id: str) -> None:
        """Forget it. Raises ``ConflictError`` while it has work."""
        await self._transport.call("DELETE", path_of("proplets", proplet_id))

    async def cordon(self, proplet_id: str) -> Proplet:
        """Give it no new work; what it has goes on."""
        return await self._set(proplet_id, "cordon")

    async def drain(self, proplet_id: str) -> Proplet:
        """Give it no new work, and move what stands there (daemons, latent tasks) elsewhere."""
        return await self._set(proplet_id, "drain")

    async def uncordon(self, proplet_id: str) -> Proplet:
        return await self._set(proplet_id, "uncordon")

    async def _set(self, proplet_id: str, what: str) -> Proplet:
        return await self._transport.post(Proplet, path_of("proplets", proplet_id, what), again=True)

    async def metrics(self, proplet_id: str, *, offset: int = 0, limit: int = PAGE) -> Page[Metric]:
        path = path_of("proplets", proplet_id, "metrics")
        return await self._transport.page(Metric, "metrics", path, offset=offset, limit=limit)

    async def alive_history(self, proplet_id: str, *, offset: int = 0, limit: int = PAGE) -> Page[Seen]:
        """When it was heard of."""
        path = path_of("proplets", proplet_id, "alive-history")
        return await self._transport.page(Seen, "history", path, offset=offset, limit=limit)

    async def sdf(self, proplet_id: str) -> dict[str, Any]:
        """Its description as a thing, in the Semantic Definition Format."""
        found: dict[str, Any] = await self._transport.call("GET", path_of("proplets", proplet_id, "sdf"))
        return found
