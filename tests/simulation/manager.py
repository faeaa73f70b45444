"""One life of the manager: its rooms as they are, below HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import cache, partial
from pathlib import Path
from typing import Any

from manager.app import Manager
from manager.attempt_files import AttemptFiles
from manager.settings import ManagerSettings
from manager.work.load import requirements_of
from swashplate.client import HttpClient
from swashplate.testing import FaultyBus, Process, VirtualDatabase
from tests.simulation.plan import HEARTBEAT_S, SILENCE_S
from tests.simulation.uploads import stored


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
            files = AttemptFiles(Path("/nonexistent"))
            made = Manager(settings(), bus, bare, database, None, HttpClient(), files, b"", clock=time.time)
            self._watch_order(made)
            made.invocations._stored = partial(stored, world)
            await made.open()
            async with bus, bare:
                self.tasks, self.ledger, self.made = made.tasks, made.ledger, made
                self.ready.set()
                await asyncio.Event().wait()

    def _watch_order(self, made: Manager) -> None:
        """Whoever is given to a proplet was the first of those that could have been given as well."""
        give, queue = made.dispatch._give, made.dispatch._queue

        def watched(task, attempt, proplet_id) -> None:
            constraint = requirements_of(task, attempt.target).constraint
            rank = -task.spec.priority, attempt.created_at
            for other in queue:
                if other.requirements.constraint == constraint and other.rank[:2] < rank:
                    self.world.faults.append(f"{attempt.key} was placed before {other.key}")
            give(task, attempt, proplet_id)

        made.dispatch._give = watched

    def memory(self) -> dict[str, Any]:
        """Whatever its rooms remember that could be a leak, or that a restart must find again: the keys of all that holds
        anything, by room and name.
        """
        found: dict[str, Any] = {"work": sorted(task.get_name() for task in self.process.tasks if not task.done())}
        rooms: list[Any] = [self.made]
        seen: set[int] = set()
        while rooms:
            room = rooms.pop()
            if id(room) in seen:
                continue
            seen.add(id(room))
            for name, value in vars(room).items():
                where = f"{type(room).__name__}.{name}"
                if where in FORGETTABLE:
                    continue
                if isinstance(value, dict | set | frozenset | deque):
                    found[where] = sorted(map(str, _kept(value)))
                elif isinstance(value, tuple) and all(hasattr(each, "__dict__") for each in value):
                    rooms += value
                elif type(value).__module__.partition(".")[0] == "manager" and hasattr(value, "__dict__"):
                    rooms.append(value)
        return found


FORGETTABLE = {
    "Ledger._recent",  # a cache, bounded
    "Load._candidates",
    "Ranking._candidates",
    "Leases._strange",  # what each proplet's last report said
    "Proplets._gone",  # the last life of each proplet
    "Proplets._asked",  # the last time; who was asked may never come
    "Proplets._alive",
    "Load.with_room",
    "Histories._beats",
    "Complaints._more",  # of the last minute
    "Complaints._timers",
    "Paces._seconds",  # bounded, and learnt again
    "Attempts.ended",  # counters for metrics
    "Invocations.ended",
    "InvocationArchive._unpruned",
}


def _kept(value: Any) -> list[Any]:
    """The keys; without those of what is empty itself."""
    if isinstance(value, dict):
        return [key for key, each in value.items() if not _is_empty(each)]
    return list(value)


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict | set | list):
        return not value
    held = getattr(value, "attempts", None)
    return isinstance(held, set) and not held
