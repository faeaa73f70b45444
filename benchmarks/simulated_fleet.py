"""A process with a real manager (its database, its HTTP server, its loop) and a fleet of simulated proplets on a broker in
memory. What the fleet and the broker take is measured where they take it, so that the rest is the manager's.

``python -m benchmarks.simulated_fleet STATE_FOLDER PORT PROPLETS HEARTBEAT_S``: answers each line on stdin with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.simulated_proplet import SimulatedProplet, spread
from manager.app import managing
from manager.settings import ManagerSettings
from swashplate import logging
from swashplate.bus import MemoryBroker, MemoryBus, Received
from swashplate.topics import Topics, last_level

TICK_S = 0.01
JOINING_AT_ONCE = 100


class Fleet(MemoryBus):
    """All its proplets on one connection; ``spent_s`` is the CPU time that they and the broker have taken."""

    def __init__(self, broker: MemoryBroker, count: int, names: Topics, heartbeat_s: float) -> None:
        super().__init__(broker, client_id="fleet")
        self._names = names
        self._heartbeat_s = heartbeat_s
        self.spent_s = 0.0
        self.placed: Counter[str] = Counter()
        proplets = [SimulatedProplet(number, names, self.placed, self._say) for number in range(count)]
        self._proplets = {each.id: each for each in proplets}
        self._joining = deque(proplets)
        self._reporting: deque[tuple[float, SimulatedProplet]] = deque()

    def _say(self, topic: str, payload: bytes, qos: int) -> None:
        self.post(topic, payload, qos=qos)

    def arrive(self, message: Received, qos: int) -> None:
        """Instead of a subscription per proplet, whose looking through is no part of what is measured."""
        base, _, kind = message.topic.rpartition("/")
        if kind not in {"start", "announce"}:
            return
        began = time.thread_time()
        hearing = self._proplets.values() if kind == "announce" else [self._proplets[last_level(base)]]
        for proplet in hearing:
            proplet.heard(message.topic, message.payload, message.retain)
        self.spent_s += time.thread_time() - began

    async def live(self) -> None:
        """Everybody registers, then reports at a time of his own in each heartbeat."""
        while self._joining:
            self._taken(self._join_some)
            await asyncio.sleep(TICK_S)
        now = time.monotonic()
        everybody = sorted(self._proplets.values(), key=lambda each: each.phase)
        self._reporting.extend((now + each.phase * self._heartbeat_s, each) for each in everybody)
        while True:
            self._taken(self._report_due)
            await asyncio.sleep(TICK_S)

    def _taken(self, work: Any) -> None:
        began = time.thread_time()
        work()
        self.spent_s += time.thread_time() - began

    def _join_some(self) -> None:
        for _ in range(min(JOINING_AT_ONCE, len(self._joining))):
            self._joining.popleft().register()

    def _report_due(self) -> None:
        now = time.monotonic()
        while self._reporting[0][0] <= now:
            due, proplet = self._reporting.popleft()
            proplet.report()
            self._reporting.append((due + self._heartbeat_s, proplet))


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve(folder: Path, port: int, count: int, heartbeat_s: float) -> None:
    """``join`` lets the fleet join; any other line only asks for what was used so far; the end of stdin ends it."""
    names = Topics("domain", "channel")
    settings = ManagerSettings.load(
        {
            "MANAGER_DOMAIN_ID": names.domain,
            "MANAGER_CHANNEL_ID": names.channel,
            "MANAGER_CLIENT_ID": "manager",
            "MANAGER_CLIENT_KEY": "unused",
            "MANAGER_HTTP_PORT": str(port),
            "MANAGER_STATE_DIR": str(folder),
            "MANAGER_HEARTBEAT_S": str(heartbeat_s),
        }
    )
    broker = MemoryBroker()
    bus = MemoryBus(broker, client_id="manager", clean_session=False)
    bare = MemoryBus(broker, client_id="manager-bare")
    fleet = Fleet(broker, count, names, heartbeat_s)
    async with managing(settings, folder, bus, bare), fleet:
        lines, living = await _lines(), None
        while line := await lines.readline():
            if line == b"join\n":
                living = asyncio.create_task(fleet.live())
            print(json.dumps({"all_s": time.process_time(), "fleet_s": fleet.spent_s, "placed": spread(fleet.placed)}))
            sys.stdout.flush()
        if living is not None:
            living.cancel()


def main() -> None:
    folder, port, count, heartbeat_s = sys.argv[1:]
    logging.configure("info", service="manager")
    Path(folder).mkdir(exist_ok=True)
    uvloop.run(serve(Path(folder), int(port), int(count), float(heartbeat_s)))


if __name__ == "__main__":
    main()
