"""One life of a proplet: its agent, its outbox and its journal as they are, and guests that do as they are told."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from pathlib import Path

from proplet.agent import Agent, new_instance, offline_will
from proplet.monitoring.counters import Counters
from proplet.policy.current import CurrentPolicy
from proplet.policy.file import load
from proplet.settings import PropletSettings
from proplet.site import Site
from proplet.work.attempts import Attempts
from proplet.work.deliveries import Deliveries
from proplet.work.journal import Journal
from proplet.work.outbox import Outbox
from proplet.work.outgoing import Ref
from proplet.work.result_files import ResultFiles
from proplet.work.task_logs import TaskLogs
from swashplate.client import HttpClient
from swashplate.messages import Start
from swashplate.testing import FaultyBus, Process
from tests.simulation.guests import ScriptedGuests
from tests.simulation.journal import VirtualCommits
from tests.simulation.uploads import VirtualUploads


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


class Reluctant(Attempts):
    """Denies the first attempts of a task that says so: ``DENIES`` is ``proplet:count``, ``DENIES_WITH`` the code."""

    def start(self, start: Start) -> None:
        who, _, count = start.env.get("DENIES", "").partition(":")
        if who == self._id and start.attempt <= int(count):
            ref = Ref(start.id, start.attempt)
            self._outbox.deny(ref, start.env["DENIES_WITH"], "it does not want to")
        else:
            super().start(start)


class PropletLife:
    def __init__(self, world, proplet_id: str, slots: int) -> None:
        self.world = world
        self.id = proplet_id
        self.slots = slots
        self.process = Process(proplet_id)
        self.up = False
        self.process.start(world.living(proplet_id, self._live()), name=proplet_id)

    async def _live(self) -> None:
        world, names = self.world, self.world.names
        chosen, instance, http = settings(self.id, self.slots), new_instance(), HttpClient()
        journal = Journal(Path(self.id), clock=time.time)
        journal._commits = VirtualCommits(world.disks[self.id], world.pace, world.chance)
        async with journal:
            bus = FaultyBus(world.broker, client_id=self.id, will=offline_will(names, self.id, instance))
            site = Site(chosen, http, list)
            self.outbox = Outbox(journal, bus, names, self.id)
            deliveries = Deliveries(journal, self.outbox, self.id, http, site.coordinator_url)
            files = ResultFiles(Path("/nonexistent"))
            self.uploads = uploads = VirtualUploads(journal, self.outbox, self.id, http, files, site.manager_url)
            uploads.world = world
            counters = Counters()
            guests = ScriptedGuests(self.id, self.slots, world.record)
            self.attempts = Reluctant(
                self.id,
                self.slots,
                chosen.queue,
                journal,
                self.outbox,
                deliveries,
                uploads,
                TaskLogs(bus, names, self.id),
                guests,
                counters,
            )
            policy = CurrentPolicy(None, lambda: load(None, chosen.limits(), chosen.isolation, {}))
            agent = Agent(
                chosen,
                bus,
                names,
                instance,
                site,
                policy,
                self.attempts,
                self.outbox,
                deliveries,
                uploads,
                counters,
                [],
            )
            await agent.open()
            async with bus:
                self.up = True
                await asyncio.Event().wait()

    def busy(self) -> str | None:
        """What it has not finished, None when there is nothing; daemons and latent tasks need not finish."""
        if not self.up:
            return "it is not up"
        finite = [each.ref for each in self.attempts._open if not each.start.daemon and not each.start.latent]
        if finite:
            return f"it runs {finite}"
        if uploading := self.uploads.refs():
            return f"it uploads {uploading}"
        if self.outbox._waiting:
            return f"its outbox has {list(self.outbox._waiting)}"
        return None
