"""One life of the manager: its rooms as they are, below HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from manager import store
from manager.attempts import TOLD_AGAIN_S, Attempts
from manager.dialects import OwnTopics, Parents
from manager.dispatch import Dispatch
from manager.images import Images
from manager.leases import Leases
from manager.ledger import Ledger
from manager.load import Load, requirements_of
from manager.offers import Offers
from manager.proplets import Proplets
from manager.tasks import TaskService
from swashplate.messages import Announce
from swashplate.testing import FaultyBus, Process, VirtualDatabase
from tests.simulation.plan import HEARTBEAT_S, SILENCE_S


async def _no_parents(_task):
    return Parents()


class ManagerLife:
    def __init__(self, world) -> None:
        self.world = world
        self.process = Process("manager")
        self.ready = asyncio.Event()
        self.process.start(world.living("manager", self._live()), name="manager")

    async def _live(self) -> None:
        world = self.world
        bus = FaultyBus(world.broker, client_id="manager", clean_session=False)
        names = world.names
        async with VirtualDatabase(world.disks["manager"], pace=world.pace, source=world.chance) as database:
            self.ledger = ledger = Ledger(database)
            self.proplets = proplets = Proplets(bus, database, names, Announce(heartbeat_s=HEARTBEAT_S), clock=time.time)
            images = Images(bus, names, timeout=25)
            own = OwnTopics(bus, names, _no_parents)
            self.load = load = Load(proplets, clock=time.time)
            self.offers = offers = Offers(bus, ledger, lambda _: own)
            self.dispatch = dispatch = Dispatch(ledger, images, load, offers, clock=time.time)
            self.leases = leases = Leases(database, ledger, proplets, load, silence_s=SILENCE_S, clock=time.time)
            self.attempts = attempts = Attempts(
                bus, names, ledger, proplets, load, dispatch, offers, leases, lambda _: own, clock=time.time
            )
            self.tasks = TaskService(database, ledger, proplets, attempts, None, clock=time.time)
            dispatch._give = self._given(dispatch._give)
            attempts.observers += [self.tasks]
            for room in (ledger, proplets, images, offers, attempts, leases):
                await room.open()
            async with bus:
                since = time.time() - TOLD_AGAIN_S
                attempts.recover(await database.run(lambda db: store.ended_since(db, since)))
                self.ready.set()
                await asyncio.Event().wait()

    def _given(self, give):
        """Whoever is given to a proplet was the first of those that could have been given as well."""

        def checked(task, attempt, proplet_id) -> None:
            constraint = requirements_of(task, attempt).constraint
            rank = -task.spec.priority, attempt.created_at
            for other in self.dispatch._queue:
                if other.requirements.constraint == constraint and other.rank[:2] < rank:
                    self.world.faults.append(f"{attempt.key} was placed before {other.key}")
            give(task, attempt, proplet_id)

        return checked

    def memory(self) -> dict[str, Any]:
        """Whatever it remembers that could be a leak, or that a restart must find again."""
        ledger, dispatch, attempts = self.ledger, self.dispatch, self.attempts
        held = {proplet: held for proplet, held in self.load._held.items() if held.attempts or held.memory}
        return {
            "tasks": sorted(ledger._tasks),
            "attempts": sorted(attempt.key for attempt in ledger.open_attempts()),
            "groups": sorted(ledger._groups),
            "members": {group: sorted(tasks) for group, tasks in sorted(ledger._members.items())},
            "doubtful": sorted(ledger._doubtful | ledger._erased),
            "queue": sorted(entry.key for entry in dispatch._queue),
            "later": sorted(dispatch._later),
            "resolving": sorted(dispatch._resolving),
            "offers": sorted(self.offers._timers),
            "leases": sorted(self.leases._timers),
            "missing": sorted(self.leases._missing),
            "stops": sorted(attempts._stops),
            "acks": sorted(attempts._acks),
            "stages": sorted(attempts._stages),
            "held": {proplet: (sorted(each.attempts), sorted(each.slots), each.memory) for proplet, each in held.items()},
            "waiting": sorted(self.tasks._waiting) + sorted(self.tasks._making),
            "work": sorted(task.get_name() for task in self.process.tasks if not task.done()),
        }
