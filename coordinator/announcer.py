"""The news that a round has a model: below the channel's base, and on the bare topic that Propeller's tools listen to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.messages import RoundNext
from swashplate.topics import ROUND_NEXT, Topics

log = logging.get("rounds")

PATIENCE = 10
"""Seconds that a broker has for the bare topic."""


class Announcer:
    """``open_bare`` makes the connection of the bare topic: a broker may refuse it, and drop it, without harm to ``bus``."""

    def __init__(self, bus: Bus, topics: Topics, open_bare: Callable[[], Bus]) -> None:
        self._bus = bus
        self._topics = topics
        self._open_bare = open_bare
        self._bare: Bus | None = None
        self._bare_stack = AsyncExitStack()
        self._bare_turn = asyncio.Lock()

    async def announce(self, news: RoundNext) -> None:
        """Raises ``BusError`` when the broker did not take it."""
        await self._bus.publish(self._topics.round_next, news.encode(), qos=1)

    async def announce_bare(self, news: RoundNext) -> None:
        """Best effort. A connection that failed is thrown away, with everything that it would send again for ever."""
        async with self._bare_turn:
            try:
                if self._bare is None:
                    self._bare = await self._bare_stack.enter_async_context(self._open_bare())
                await self._bare.wait_connected(PATIENCE)
                await self._bare.publish(ROUND_NEXT, news.encode(), qos=1, timeout=PATIENCE)
            except BusError as error:
                log.info("not announced on the bare topic", topic=ROUND_NEXT, reason=error.sentence)
                await self.close()

    async def close(self) -> None:
        self._bare = None
        await self._bare_stack.aclose()
