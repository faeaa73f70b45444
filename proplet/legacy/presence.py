"""Whether this proplet is on the topics that all proplets share: as long as no manager of ours announces itself.

Where none has within ``SILENCE_S`` of connecting, it registers there too. An announcement, which is retained, ends that for
the life of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from proplet.capabilities import described
from proplet.settings import PropletSettings
from swashplate import logging
from swashplate.bus import Bus, BusError, Received
from swashplate.messages.legacy import LegacyAlive, LegacyCreate
from swashplate.service import Tasks
from swashplate.topics import SHARED_QOS, Topics

log = logging.get("legacy")

SILENCE_S = 2.0


class Presence:
    """``hears`` maps the kinds of messages for proplets to who takes them."""

    def __init__(
        self,
        settings: PropletSettings,
        bus: Bus,
        topics: Topics,
        hears: Mapping[str, Callable[[Received], Awaitable[None]]],
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._topics = topics
        self._hears = hears
        self._work = Tasks(log)
        self._waiting: asyncio.Task[None] | None = None
        self._heartbeats: asyncio.Task[None] | None = None
        self._retired = False

    @property
    def speaking(self) -> bool:
        """Does this proplet serve a manager that knows the shared topics alone?"""
        return self._heartbeats is not None and not self._retired

    def open(self) -> None:
        """Call before the bus connects."""
        self._bus.on_connect(self._connected)

    async def close(self) -> None:
        await self._work.close()

    async def say(self, kind: str, payload: bytes, *, timeout: float) -> None:
        """Raises ``BusError`` when the broker has not taken it within ``timeout`` seconds."""
        await self._bus.publish(self._topics.shared_from_proplets(kind), payload, qos=SHARED_QOS, timeout=timeout)

    async def retire(self) -> None:
        """A manager has announced itself: no new task comes this way any more; those that run are still answered for."""
        if self._retired:
            return
        self._retired = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._heartbeats is not None:
            log.info("a manager has announced itself: leaving the shared topics")
            self._heartbeats.cancel()
            await self._unsubscribe()

    async def _connected(self) -> None:
        if self._retired:
            return
        if self.speaking:
            await self._register()
        elif self._waiting is None or self._waiting.done():
            self._waiting = self._work.start(self._wait(), "wait for an announcement")

    async def _wait(self) -> None:
        await asyncio.sleep(SILENCE_S)
        if not self._bus.connected:
            return  # the next connection waits anew
        try:
            for kind, hear in self._hears.items():
                await self._bus.subscribe(self._topics.shared_to_proplets(kind), hear, qos=SHARED_QOS)
            await self._register()
        except BusError as error:
            log.info("nobody has announced itself, and the shared topics are not granted", reason=error.sentence)
            await self._unsubscribe()
            return
        except asyncio.CancelledError:
            await self._unsubscribe()
            raise
        log.info("no manager has announced itself: on the shared topics as well", within_s=SILENCE_S)
        self._heartbeats = self._work.start(self._beat(), "heartbeats on the shared topic")

    async def _unsubscribe(self) -> None:
        for kind in self._hears:
            await self._bus.unsubscribe(self._topics.shared_to_proplets(kind))

    async def _register(self) -> None:
        said = described(self._settings.name)
        create = LegacyCreate(proplet_id=self._settings.client_id, namespace=self._settings.namespace, metadata=said)
        await self.say("create", create.encode(), timeout=10)

    async def _beat(self) -> None:
        said = LegacyAlive(proplet_id=self._settings.client_id, status="alive", namespace=self._settings.namespace)
        alive = said.encode()
        while True:
            if self._bus.connected:
                with contextlib.suppress(BusError):
                    await self.say("alive", alive, timeout=self._settings.heartbeat)
            await asyncio.sleep(self._settings.heartbeat)
