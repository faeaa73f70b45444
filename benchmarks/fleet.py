"""A fleet: thousands of proplets with real connections, reporting every ten seconds, and what they cost the manager.

The proplets are simulated in this process: each has its own connection to mosquitto, registers, reports, and answers a start
at once with a result. Manager and broker are real. With ``--simulated`` the broker is in memory and in the manager's
process, with the proplets: for fleets that one machine cannot connect.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import processes
from benchmarks.lean_http import Connection, RefusedError
from benchmarks.mini_mqtt import Client
from benchmarks.report import Report
from benchmarks.simulated_proplet import SimulatedProplet, spread
from benchmarks.tasks import Load, percentile
from swashplate.stack.environment import without_roles
from swashplate.stack.services import broker_program
from swashplate.stack.supervisor import die_with_parent
from swashplate.topics import Topics

HOST = "127.0.0.1"
MANAGER_PORT, BROKER_PORT = 7070, 1883
TARGET_PERCENT, TARGET_PAGE_MS = 50.0, 50.0
PAGES = 200
CONNECTING_AT_ONCE = 100
READY_WITHIN_S = 120.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--proplets", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--simulated", action="store_true", help="a broker in memory, in the manager's process")
    parser.add_argument("--heartbeat", type=float, default=10.0, help="seconds between reports (default 10)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to look at the manager (default 30)")
    parser.add_argument("--tasks", type=int, default=2000, help="how many tasks to place across them (default 2000)")
    parser.add_argument("--port-offset", type=int, default=20_000, help="added to the broker's and the manager's port")


class Connected:
    """A simulated proplet with a connection of its own."""

    def __init__(self, number: int, names: Topics, heartbeat_s: float, placed: Counter[str]) -> None:
        self._heartbeat_s = heartbeat_s
        self._proplet = SimulatedProplet(number, names, placed, self._publish)
        self._timer: asyncio.TimerHandle | None = None
        self._client = Client(self._proplet.id, self._proplet.topics, self._proplet.heard, self._proplet.will)

    def _publish(self, topic: str, payload: bytes, qos: int) -> None:
        self._client.publish(topic, payload, qos)

    async def join(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self._client, HOST, port)
        async with asyncio.timeout(30):
            await self._client.joined
        self._proplet.register()
        self._timer = loop.call_later(self._proplet.phase * self._heartbeat_s, self._report)

    def _report(self) -> None:
        self._proplet.report()
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_s, self._report)

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._client.close()


class RealFleet:
    """Connections, broker and manager as they are in use."""

    def __init__(self, options: argparse.Namespace, manager: int, broker: int, names: Topics) -> None:
        self.placed = Counter[str]()
        self.pid = manager
        self._port = BROKER_PORT + options.port_offset
        self._watched = {"manager": manager, "mosquitto": broker, "simulation": os.getpid()}
        self._proplets = [
            Connected(number, names, options.heartbeat, self.placed) for number in range(options.proplets)
        ]

    async def join(self) -> None:
        await _join_all(self._proplets, self._port)

    async def used_s(self) -> dict[str, float]:
        return {who: processes.cpu_s(pid) for who, pid in self._watched.items()}

    async def spread(self) -> dict[str, int]:
        return spread(self.placed)

    def leave(self) -> None:
        for proplet in self._proplets:
            proplet.leave()


class SimulatedFleet:
    """In the manager's process, which tells what of its CPU time is not the manager's."""

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self._process = process

    async def _asked(self, line: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        said: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return said

    async def join(self) -> None:
        await self._asked(b"join\n")

    async def used_s(self) -> dict[str, float]:
        said = await self._asked(b"used\n")
        return {"manager": said["all_s"] - said["fleet_s"], "simulation": said["fleet_s"]}

    async def spread(self) -> dict[str, int]:
        found: dict[str, int] = (await self._asked(b"used\n"))["placed"]
        return found


async def _spawn(command: list[str], env: dict[str, str], log: Path, *, speaks: bool = False) -> Process:
    """``speaks``: it is asked and answers through stdin and stdout."""
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=subprocess.PIPE if speaks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if speaks else output,
            stderr=output,
            preexec_fn=die_with_parent(os.getpid()),
        )


@asynccontextmanager
async def _running(command: list[str], log: Path, *, speaks: bool = False, **settings: str) -> AsyncIterator[Process]:
    process = await _spawn(command, {**without_roles(os.environ), **settings}, log, speaks=speaks)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def _real(folder: Path, options: argparse.Namespace) -> AsyncIterator[RealFleet]:
    """Once broker and manager answer."""
    names = Topics("domain", "channel")
    broker_port, manager_port = BROKER_PORT + options.port_offset, MANAGER_PORT + options.port_offset
    conf = folder / "mosquitto.conf"
    conf.write_text(
        f"listener {broker_port} {HOST}\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages 1000\n"
        "max_queued_messages 1000000\nlog_dest stderr\nlog_type error\nlog_type warning\n"
    )
    settings = {
        "MANAGER_DOMAIN_ID": names.domain,
        "MANAGER_CHANNEL_ID": names.channel,
        "MANAGER_CLIENT_ID": "manager",
        "MANAGER_CLIENT_KEY": "unused",
        "MANAGER_HTTP_PORT": str(manager_port),
        "MANAGER_MQTT_ADDRESS": f"tcp://{HOST}:{broker_port}",
        "MANAGER_STATE_DIR": str(folder / "manager"),
        "MANAGER_HEARTBEAT_S": str(options.heartbeat),
    }
    log = folder / "manager.log"
    async with (
        _running([broker_program("mosquitto"), "-c", str(conf)], folder / "broker.log") as broker,
        _running([sys.executable, "-m", "manager"], log, **settings) as manager,
    ):
        await _until_healthy(manager, f"http://{HOST}:{manager_port}", log)
        fleet = RealFleet(options, manager.pid, broker.pid, names)
        try:
            yield fleet
        finally:
            fleet.leave()


@asynccontextmanager
async def _simulated(folder: Path, options: argparse.Namespace) -> AsyncIterator[SimulatedFleet]:
    port, log = MANAGER_PORT + options.port_offset, folder / "manager.log"
    of_fleet = map(str, (folder / "manager", port, options.proplets, options.heartbeat))
    command = [sys.executable, "-m", "benchmarks.simulated_fleet", *of_fleet]
    async with _running(command, log, speaks=True) as process:
        await _until_healthy(process, f"http://{HOST}:{port}", log)
        yield SimulatedFleet(process)


async def _until_healthy(manager: Process, url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            async with Connection(url) as connection:
                await connection.request("GET", "/health")
                return
        except (OSError, RefusedError):
            if manager.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the manager did not start: {log.read_text()[-2000:]}") from None
        await asyncio.sleep(0.1)


async def _registered(connection: Connection, wanted: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        page = await connection.request("GET", "/proplets?limit=1&status=active")
        if page["total"] >= wanted:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {page['total']} of {wanted} proplets are registered and alive")
        await asyncio.sleep(0.1)


async def _reported(connection: Connection, seconds: float, heartbeat_s: float) -> None:
    """Nothing was measured if nobody reported."""
    page = await connection.request("GET", "/proplets?limit=100")
    for proplet in page["proplets"]:
        reports = (await connection.request("GET", f"/proplets/{proplet['id']}/alive-history?limit=1"))["total"]
        if reports < min(100, int(seconds / heartbeat_s)):
            raise RuntimeError(f"proplet {proplet['id']} reported only {reports} times")


async def _join_all(fleet: list[Connected], port: int) -> None:
    left = iter(fleet)

    async def some() -> None:
        for proplet in left:
            await proplet.join(port)

    await asyncio.gather(*(some() for _ in range(CONNECTING_AT_ONCE)))


async def _pages_ms(connection: Connection) -> list[float]:
    times = []
    for _ in range(PAGES):
        began = time.perf_counter()
        page = await connection.request("GET", "/proplets?limit=100")
        times.append((time.perf_counter() - began) * 1000)
        assert len(page["proplets"]) == min(100, page["total"])  # a benchmark of a wrong answer is none
        await asyncio.sleep(0.01)
    return sorted(times)


async def _tasks(url: str, fleet: RealFleet | SimulatedFleet, count: int) -> dict[str, Any]:
    load = Load(url, one_request=False)
    before, began = await fleet.used_s(), time.time()
    await load.launch_all(range(count))
    await load.all_ended()
    used = (await fleet.used_s())["manager"] - before["manager"]
    last, repeated = await load.checked(set(load.expected))
    return {
        "count": count,
        "tasks_per_s": round(count / (last - began), 1),
        "manager_cpu_us_per_task": round(used / count * 1e6),
        "needed_more_attempts": repeated,
        **await fleet.spread(),
    }


async def measure(options: argparse.Namespace) -> Report:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    url = f"http://{HOST}:{MANAGER_PORT + options.port_offset}"
    begun = _simulated if options.simulated else _real
    with tempfile.TemporaryDirectory(prefix="swashplate-bench-") as name:
        async with begun(Path(name), options) as fleet, Connection(url) as connection:
            empty_mib, before, began = processes.rss_mib(fleet.pid), await fleet.used_s(), time.monotonic()
            await fleet.join()
            await _registered(connection, options.proplets)
            joined_s = time.monotonic() - began
            joining_cpu = (await fleet.used_s())["manager"] - before["manager"]
            before, began = await fleet.used_s(), time.monotonic()
            await asyncio.sleep(options.seconds)
            used, elapsed = await fleet.used_s(), time.monotonic() - began
            share = {who: 100 * (used[who] - before[who]) / elapsed for who in used}
            await _registered(connection, options.proplets)  # nobody was lost meanwhile
            await _reported(connection, options.seconds, options.heartbeat)
            pages = await _pages_ms(connection)
            full_mib = processes.rss_mib(fleet.pid)
            tasks = await _tasks(url, fleet, options.tasks) if options.tasks else {}
    details = {
        "proplets": options.proplets,
        "broker": "in memory" if options.simulated else "mosquitto",
        "heartbeat_s": options.heartbeat,
        "all_registered_after_s": round(joined_s, 2),
        "manager_cpu_us_per_registration": round(joining_cpu / options.proplets * 1e6),
        "percent_of_a_core": {who: round(value, 1) for who, value in share.items()},
        "first_page_p50_ms": round(percentile(pages, 50), 2),
        "first_page_p99_ms": round(percentile(pages, 99), 2),
        "first_page_target_ms": TARGET_PAGE_MS,
        "manager_rss_mib": [round(empty_mib, 1), round(full_mib, 1)],
        "tasks": tasks,
    }
    target = {"cited": TARGET_PERCENT, "source": "the most that it may be"}
    return Report("fleet", "% of a core", share["manager"], 1, {"target": target}, details=details)


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measure(options))
