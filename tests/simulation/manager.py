"""One life of the manager: its rooms as they are, below HTTP."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from typing import Any

from manager.app import Manager
from manager.load import requirements_of
from manager.settings import ManagerSettings
from swashplate.client import HttpClient
from swashplate.testing import FaultyBus, Process, VirtualDatabase
from tests.simulation.plan import HEARTBEAT_S, SILENCE_S


@cache
def settings() -> ManagerSettings:
    return ManagerSettings.load(
        {
            "MANAGER_DOMAIN_ID": "d",
            "MANAGER_CHANNEL_ID": "c",
            "MANAGER_CLIENT_ID": "manager",
            "MANAGER_CLIENT_KEY": "key",
            "MANAGER_HEARTBEAT_S": str(HEARTBEAT_S),
            "MANAGER_LEASE": str(SILENCE_S),
        }
    )


class ManagerLife:
    def __init__(self, world) -> None:
        self.world = world
        self.process = Process("manager")
        self.ready = asyncio.Event()
        self.process.start(world.living("manager", self._live()), name="manager")

    async def _live(self) -> None:
        world = self.world
        bus = FaultyBus(world.broker, client_id="manager", clean_session=False)
        bare = FaultyBus(world.broker, client_id="manager-bare")
        async with VirtualDatabase(world.disks["manager"], pace=world.pace, source=world.chance) as database:
            # A client of HTTP that is never used: only the façade of learning has one.
            made = Manager(settings(), bus, bare, database, None, HttpClient(), clock=time.time)
            self._watch_order(made)
            await made.open()
            async with bus, bare:
                self.tasks, self.ledger, self.made = made.tasks, made.ledger, made
                self.ready.set()
                await asyncio.Event().wait()

    def _watch_order(self, made: Manager) -> None:
        """Whoever is given to a proplet was the first of those that could have been given as well."""
        give, queue = made.dispatch._give, made.dispatch._queue

        def watched(task, attempt, proplet_id) -> None:
            constraint = requirements_of(task, attempt).constraint
            rank = -task.spec.priority, attempt.created_at
            for other in queue:
                if other.requirements.constraint == constraint and other.rank[:2] < rank:
                    self.world.faults.append(f"{attempt.key} was placed before {other.key}")
            give(task, attempt, proplet_id)

        made.dispatch._give = watched

    def memory(self) -> dict[str, Any]:
        """Whatever it remembers that could be a leak, or that a restart must find again."""
        ledger, dispatch, attempts = self.ledger, self.made.dispatch, self.made.attempts
        held = {proplet: each for proplet, each in self.made.load._held.items() if each.attempts or each.memory}
        return {
            "tasks": sorted(ledger._tasks),
            "attempts": sorted(attempt.key for attempt in ledger.open_attempts()),
            "groups": sorted(ledger._groups),
            "members": {group: sorted(tasks) for group, tasks in sorted(ledger._members.items())},
            "doubtful": sorted(ledger._doubtful | ledger._erased),
            "queue": sorted(entry.key for entry in dispatch._queue),
            "later": sorted(dispatch._later),
            "resolving": sorted(dispatch._resolving),
            "offers": sorted(attempts._offers._timers),
            "leases": sorted(attempts._leases._timers),
            "missing": sorted(attempts._leases._missing),
            "stops": sorted(attempts._stops),
            "acks": sorted(attempts._acks),
            "stages": sorted(attempts._stages),
            "held": {name: (sorted(each.attempts), sorted(each.slots), each.memory) for name, each in held.items()},
            "waiting": sorted(self.tasks._waiting) + sorted(self.tasks._making),
            "work": sorted(task.get_name() for task in self.process.tasks if not task.done()),
        }
