"""One life of a proplet: its agent, its outbox and its journal as they are, and guests that do as they are told."""

from __future__ import annotations

import asyncio
from functools import cache

from proplet.agent import Agent, new_instance, offline_will
from proplet.counters import Counters
from proplet.outbox import Outbox
from proplet.settings import PropletSettings
from proplet.site import Site
from swashplate.client import HttpClient
from swashplate.testing import FaultyBus, Process
from tests.simulation.guests import ScriptedRunner
from tests.simulation.journal import VirtualJournal


@cache
def settings(proplet_id: str, slots: int) -> PropletSettings:
    return PropletSettings.load(
        {
            "PROPLET_DOMAIN_ID": "d",
            "PROPLET_CHANNEL_ID": "c",
            "PROPLET_CLIENT_ID": proplet_id,
            "PROPLET_CLIENT_KEY": "key",
            "PROPLET_SLOTS": str(slots),
            "PROPLET_QUEUE": "2",
        }
    )


class PropletLife:
    def __init__(self, world, proplet_id: str, slots: int) -> None:
        self.world = world
        self.id = proplet_id
        self.slots = slots
        self.process = Process(proplet_id)
        self.process.start(world.living(proplet_id, self._live()), name=proplet_id)

    async def _live(self) -> None:
        world, names = self.world, self.world.names
        chosen, instance = settings(self.id, self.slots), new_instance()
        will = offline_will(names, self.id, instance)
        http = HttpClient()
        async with VirtualJournal(world.disks[self.id], world.pace, world.chance) as journal:
            bus = FaultyBus(world.broker, client_id=self.id, will=will)
            site = Site(chosen, http, list)
            self.outbox = Outbox(journal, bus, names, self.id, http, site.coordinator_url)
            runner = ScriptedRunner(self.id, self.slots, world.record)
            self.agent = Agent(chosen, bus, names, instance, site, journal, self.outbox, runner, Counters())
            await self.agent.open()
            async with bus:
                await asyncio.Event().wait()

    def busy(self) -> str | None:
        """What it has not finished, None when there is nothing."""
        if not hasattr(self, "agent"):
            return "it is not up"
        if self.agent._active:
            return f"it runs {list(self.agent._active)}"
        if self.outbox._waiting:
            return f"its outbox has {list(self.outbox._waiting)}"
        return None
