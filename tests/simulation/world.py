"""A whole system in virtual time: one manager, its proplets, a registry, clients, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from manager.state import tables
from swashplate.bus import Received
from swashplate.errors import SwashplateError
from swashplate.messages import Ack, Resolve, Resolved, Result, Start
from swashplate.testing import (
    EPOCH,
    Disk,
    Faults,
    FaultyBroker,
    FaultyBus,
    Pace,
    Process,
    virtual_loop,
    virtual_machine,
)
from swashplate.topics import Topics
from tests.simulation import journal
from tests.simulation.clients import Clients
from tests.simulation.guests import Record
from tests.simulation.invariants import WATCHED, BrokenError, check, seen, settled, undurable, wrong_parents
from tests.simulation.manager import ManagerLife
from tests.simulation.plan import MINUTE_AT_S, Plan, Step, drawn
from tests.simulation.proplet import PropletLife

NAMES = Topics("d", "c")
DIGEST = "sha256:" + "ab" * 32
PATIENCE_S = 400.0
"""After the last trouble everything must be over by then."""
TIE_S = 1e-6
"""Between two steps of the same time, which keep their order."""
AFTERWARDS_S = 6.0
"""And still be so by then."""


class Registry:
    """Answers what an image is."""

    def __init__(self, broker: FaultyBroker) -> None:
        self.bus = FaultyBus(broker, client_id="proxy")

    async def live(self) -> None:
        await self.bus.subscribe(NAMES.resolve_request, self._answer)
        async with self.bus:
            await asyncio.Event().wait()

    async def _answer(self, message: Received) -> None:
        asked = Resolve.decode(message.payload)
        said = Resolved(request_id=asked.request_id, image=asked.image, digest=DIGEST, size=10)
        await self.bus.publish(NAMES.resolve_reply, said.encode())


def _manager_tables(disk: Disk) -> None:
    tables.metadata.create_all(disk.engine)
    disk.connection.executescript(WATCHED)


_DISKS: dict[str, Disk] = {}


def disk(name: str) -> Disk:
    """Made once per process and wiped: making its tables takes longer than a schedule."""
    found = _DISKS.get(name)
    if found is None:
        found = _DISKS[name] = Disk(_manager_tables if name == "manager" else journal.prepare)
    found.wipe()
    return found


class World:
    def __init__(self, seed: int, plan: Plan, trace: Callable[[str], None] | None) -> None:
        self.plan = plan
        self.names = NAMES
        self.trace = trace
        self.chance = random.Random(f"{seed} chances")
        self.pace = Pace(slow=plan.slow_commits)
        self.record = Record()
        self.said: dict[tuple[str, int, str], list[Result]] = {}
        """Every result that a proplet handed to the broker, by attempt and proplet."""
        self.given: dict[tuple[str, int], str] = {}
        """To which proplet each attempt went."""
        self.loop = asyncio.get_running_loop()
        faults = Faults(slow=plan.slow, loss=plan.loss, duplicate=plan.duplicate)
        self.broker = FaultyBroker(self.chance, faults, trace=self.tell if trace else None)
        self.broker.on_publish = self._overheard
        self.disks = {name: disk(name) for name in ("manager", *self.proplet_ids)}
        self.manager: ManagerLife | None = None
        self.proplets: dict[str, PropletLife] = {}
        self.clients = Clients(self)
        self.lost: set[str] = set()
        self.uploaded: set[tuple[str, str, str]] = set()
        """Large results that the manager has: task, place and digest."""
        self._ambushes: list[dict[str, Any]] = []
        self._strikes: list[asyncio.TimerHandle] = []
        self.faults: list[str] = []
        """What must never happen and did."""
        self.context = copy_context()

    @property
    def proplet_ids(self) -> list[str]:
        return [f"proplet-{number}" for number in range(len(self.plan.proplets))]

    def tell(self, line: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.loop.time():9.4f} {line}")

    def happened(self, event: str) -> None:
        """Whoever waits for such a moment strikes shortly after."""
        for ambush in [each for each in self._ambushes if each["event"] == event]:
            self._ambushes.remove(ambush)
            how = (ambush["who"], ambush["down_s"], ambush["told_s"])
            self._strikes.append(self.loop.call_later(ambush["after_s"], self.crash, *how, context=self.context))

    def _overheard(self, client_id: str, topic: str, payload: bytes) -> None:
        kind = topic.rpartition("/")[2]
        self.happened(kind)
        match kind:
            case "results":
                said = Result.decode(payload)
                self.said.setdefault((said.task_id, said.attempt, client_id), []).append(said)
            case "start":
                start = Start.decode(payload)
                given = self.given.setdefault((start.id, start.attempt), start.proplet_id)
                if wrong := wrong_parents(self, start):
                    self.faults.append(wrong)
                if given != start.proplet_id:
                    self.faults.append(
                        f"attempt {start.attempt} of {start.name} went to {given} and to {start.proplet_id}"
                    )
            case "ack":
                self.faults += [fault for said_id in Ack.decode(payload).ids if (fault := undurable(self, said_id))]

    # What a step can be.

    def create(self, key: str, **fields) -> None:
        self.clients.create(key, fields)

    def start(self, key: str) -> None:
        self.clients.start(key)

    def stop(self, key: str) -> None:
        self.clients.stop(key)

    def delete(self, key: str) -> None:
        self.clients.delete(key)

    def invoke(self, key: str, does: str, timeout_s: float) -> None:
        self.clients.invoke(key, does, timeout_s)

    def cordon(self, proplet: str) -> None:
        self.clients.cordon(proplet, cordoned=True, draining=False)

    def drain(self, proplet: str) -> None:
        self.clients.cordon(proplet, cordoned=True, draining=True)

    def uncordon(self, proplet: str) -> None:
        self.clients.cordon(proplet, cordoned=False, draining=False)

    def group(self, key: str, **how: Any) -> None:
        self.clients.groups.create(key, how)

    def join_group(self, key: str, **task: Any) -> None:
        self.clients.groups.join(key, task)

    def start_group(self, key: str) -> None:
        self.clients.groups.start(key)

    def stop_group(self, key: str) -> None:
        self.clients.groups.stop(key)

    def delete_group(self, key: str) -> None:
        self.clients.groups.delete(key)

    def priority(self, key: str, priority: int) -> None:
        self.clients.priority(key, priority)

    def crash(self, who: str, down_s: float, told_s: float) -> None:
        life = self.manager if who == "manager" else self.proplets.get(who)
        if life is None:
            return
        self.tell(f"{who} is killed")
        life.process.kill()
        self.broker.cut(who, broker_after=told_s)
        self.broker.cut(f"{who}-bare", broker_after=told_s)
        if who == "manager":
            self.manager = None
        else:
            del self.proplets[who]
            self.record.forget(who)
        self.loop.call_later(down_s, self.boot, who)

    def lose(self, who: str) -> None:
        """It dies and never comes back."""
        self.lost.add(who)
        if who in self.proplets:
            self.crash(who, 0.0, 6.0)

    def ambush(self, **how: Any) -> None:
        """A crash just after the next event of a kind: in the middle of what that makes others do."""
        self._ambushes.append(how)

    def cut(self, who: str, client_s: float, broker_s: float) -> None:
        self.broker.cut(who, client_after=client_s, broker_after=broker_s)

    def partition(self, who: str, for_s: float, broker_s: float) -> None:
        self.broker.partition(who, for_s, broker_after=broker_s)

    def broker_dies(self, down_s: float, *, forget: bool) -> None:
        self.broker.stop(forget=forget)
        self.loop.call_later(down_s, self.broker.start)

    def full(self, who: str, for_s: float) -> None:
        self.tell(f"the disk of {who} is full")
        self.disks[who].full(yes=True)
        self.loop.call_later(for_s, lambda: self.disks[who].full(yes=False))

    def running(self, task_id: str, until: int) -> list[tuple[str, str, int]]:
        """Which attempts of a task, up to this number, guests work on now."""
        return [key for key in self.record.running if key[1] == task_id and key[2] <= until]

    # Its life.

    def boot(self, who: str) -> None:
        if who in self.lost:
            return
        self.tell(f"{who} starts")
        if who == "manager":
            self.manager = ManagerLife(self)
        else:
            self.proplets[who] = PropletLife(self, who, self.plan.proplets[int(who.removeprefix("proplet-"))])

    async def living(self, who: str, life: Coroutine[Any, Any, None]) -> None:
        """One life; whoever ends by himself is started again, as the supervisor does."""
        try:
            await life
        except SwashplateError as error:
            self.tell(f"{who} ends: {error.sentence}")
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not happen
            self.faults.append(f"{who} ended with {error!r}")
        self.loop.call_soon(self.crash, who, 0.5, 0.0, context=self.context)

    def do(self, step: Step) -> None:
        self.tell(f"* {step.what} {step.how}")
        getattr(self, "broker_dies" if step.what == "broker" else step.what)(**step.how)

    async def live(self) -> None:
        registry = Process("proxy")
        registry.start(Registry(self.broker).live())
        for who in ("manager", *self.proplet_ids):
            self.boot(who)
        self.loop.set_exception_handler(self._caught)
        for number, step in enumerate(self.plan.steps):
            self.loop.call_at(1.0 + step.at + number * TIE_S, self.do, step)
        await asyncio.sleep(1.1 + self.plan.quiet_at)
        self.broker.faults = Faults()
        self._ambushes.clear()
        for strike in self._strikes:
            strike.cancel()
        self.tell("* no more trouble")
        while self.clients.busy:  # what they still ask for must not come after the following
            await asyncio.sleep(0.5)
        self.clients.unschedule()
        if not self.plan.keeps_standing:
            self.clients.stop_standing()
        for proplet in dict.fromkeys(
            step.how["proplet"] for step in self.plan.steps if step.what in {"cordon", "drain"}
        ):
            self.uncordon(proplet)
        until = self.loop.time() + PATIENCE_S
        while (unsettled := settled(self)) is not None:
            if self.loop.time() > until:
                raise BrokenError(f"not settled {PATIENCE_S:g} s after the last trouble: {unsettled}")
            await asyncio.sleep(1.0)
        self.tell("* settled")
        await asyncio.sleep(AFTERWARDS_S)
        check(self)
        if self.plan.restart:
            await self._restart()

    def _caught(self, _loop: Any, context: dict[str, Any]) -> None:
        """An exception that nobody waits for."""
        error = context.get("exception")
        if not isinstance(error, SwashplateError):
            self.faults.append(f"{context['message']}: {error!r}")

    async def _restart(self) -> None:
        """A manager that just started remembers what one that was there all the time does."""
        before = self.manager.memory()
        self.crash("manager", 0.0, 0.0)
        await asyncio.sleep(AFTERWARDS_S)
        after = self.manager.memory()
        differences = [
            f"{what}: {before.get(what)}, then {after.get(what)}"
            for what in sorted(before.keys() | after.keys())
            if before.get(what) != after.get(what)
        ]
        if differences:
            raise BrokenError(f"a restart changes what the manager remembers: {'; '.join(differences)}")


@dataclass(frozen=True)
class Outcome:
    seed: int
    broken: str | None
    seconds: float
    """Of virtual time."""
    seen: Counter[str]
    """What happened, to see that not only easy things did."""


@contextmanager
def _without_collector():
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def simulate(seed: int, *, trace: Callable[[str], None] | None = None, plan: Plan | None = None) -> Outcome:
    """One schedule. What an invariant says is in the outcome; a fault of the simulation itself is raised."""
    with (
        _without_collector(),
        virtual_loop() as loop,
        virtual_machine(loop, random.Random(f"{seed} machine"), epoch=EPOCH - MINUTE_AT_S),
    ):

        async def main() -> Counter[str]:
            world = World(seed, plan or drawn(seed), trace)
            await world.live()
            return seen(world)

        broken, happened = None, Counter[str]()
        try:
            happened = loop.run_until_complete(main())
        except BrokenError as error:
            broken = str(error)
        return Outcome(seed, broken, loop.time(), happened)
