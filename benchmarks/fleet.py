"""A fleet: thousands of proplets with real connections, reporting every ten seconds, and what they cost the manager.

The proplets are simulated in this process: each has its own connection to mosquitto, registers, reports, and answers a start
at once with a result. Manager and broker are real.
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
import uuid
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
from benchmarks.tasks import Load, percentile
from swashplate.messages import Alive, AttemptStatus, Capabilities, PropletCreate, Result
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
    parser.add_argument("--heartbeat", type=float, default=10.0, help="seconds between reports (default 10)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to look at the manager (default 30)")
    parser.add_argument("--tasks", type=int, default=2000, help="how many tasks to place across them (default 2000)")
    parser.add_argument("--port-offset", type=int, default=20_000, help="added to the broker's and the manager's port")


class Simulated:
    """One proplet: as much of it as the manager can see."""

    def __init__(self, number: int, names: Topics, heartbeat_s: float, placed: Counter[str]) -> None:
        self.id = str(uuid.UUID(int=number + 1))
        self._names = names
        self._phase = number * 0.618034 % 1
        self._heartbeat_s = heartbeat_s
        self._placed = placed
        instance = uuid.uuid4().hex
        gone = Alive(proplet_id=self.id, instance=instance, status="offline")
        here = Alive(proplet_id=self.id, instance=instance, status="alive", free_slots=1)
        self._alive_topic, self._alive = names.proplet(self.id, "alive"), here.encode()
        self._create = PropletCreate(
            proplet_id=self.id,
            instance=instance,
            metadata={"name": f"simulated-{number}", "os": "linux"},
            capabilities=Capabilities(
                cpu=4, memory_bytes=8 << 30, arch="x86_64", labels={"site": f"s{number % 50}"}, slots=1
            ),
        ).encode()
        self._start_topic = names.to_proplet(self.id, "start")
        self._timer: asyncio.TimerHandle | None = None
        self.client = Client(
            self.id,
            [names.announce, *(names.to_proplet(self.id, kind) for kind in ("start", "stop", "ack"))],
            self._heard,
            (self._alive_topic, gone.encode()),
        )

    async def join(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.client, HOST, port)
        async with asyncio.timeout(30):
            await self.client.joined
        self._register()
        # A fleet does not report in step.
        self._timer = loop.call_later(self._phase * self._heartbeat_s, self._report)

    def _register(self) -> None:
        self.client.publish(self._names.proplet(self.id, "create"), self._create, 1)

    def _report(self) -> None:
        self.client.publish(self._alive_topic, self._alive, 0)
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_s, self._report)

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == self._start_topic:
            self._perform(json.loads(payload))
        elif topic == self._names.announce and not retained:
            self._register()

    def _perform(self, start: dict[str, Any]) -> None:
        ref = {"task_id": start["id"], "attempt": start["attempt"], "proplet_id": self.id}
        said = AttemptStatus(id=f"{start['id']}/{start['attempt']}/accepted", status="accepted", **ref)
        self.client.publish(self._names.proplet(self.id, "status"), said.encode(), 1)
        total = str(sum(map(int, start["inputs"])))
        done = Result(id=f"{start['id']}/{start['attempt']}/result", results=total, **ref)
        self.client.publish(self._names.proplet(self.id, "results"), done.encode(), 1)
        self._placed[self.id] += 1

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.client.close()


async def _spawn(command: list[str], env: dict[str, str], log: Path) -> Process:
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent(os.getpid()),
        )


@asynccontextmanager
async def _processes(folder: Path, offset: int, names: Topics, heartbeat_s: float) -> AsyncIterator[tuple[int, int]]:
    """The pids of the manager and the broker, once both answer."""
    broker_port, manager_port = BROKER_PORT + offset, MANAGER_PORT + offset
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
        "MANAGER_HEARTBEAT_S": str(heartbeat_s),
    }
    env = without_roles(os.environ)
    broker = await _spawn([broker_program("mosquitto"), "-c", str(conf)], env, folder / "broker.log")
    try:
        manager = await _spawn([sys.executable, "-m", "manager"], {**env, **settings}, folder / "manager.log")
        try:
            await _until_healthy(manager, f"http://{HOST}:{manager_port}", folder / "manager.log")
            yield manager.pid, broker.pid
        finally:
            manager.terminate()
            await manager.wait()
    finally:
        broker.terminate()
        await broker.wait()


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


async def _join_all(fleet: list[Simulated], port: int) -> None:
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


async def _tasks(url: str, manager: int, count: int, placed: Counter[str]) -> dict[str, Any]:
    load = Load(url, one_request=False)
    before, began = processes.cpu_s(manager), time.time()
    await load.launch_all(range(count))
    await load.all_ended()
    used = processes.cpu_s(manager) - before
    last, repeated = await load.checked(set(load.expected))
    return {
        "count": count,
        "tasks_per_s": round(count / (last - began), 1),
        "manager_cpu_us_per_task": round(used / count * 1e6),
        "needed_more_attempts": repeated,
        "proplets_used": len(placed),
        "most_on_one": max(placed.values()),
    }


async def measure(options: argparse.Namespace) -> Report:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    names, placed = Topics("domain", "channel"), Counter[str]()
    url = f"http://{HOST}:{MANAGER_PORT + options.port_offset}"
    with tempfile.TemporaryDirectory(prefix="swashplate-bench-") as name:
        async with _processes(Path(name), options.port_offset, names, options.heartbeat) as (manager, broker):
            fleet = [Simulated(number, names, options.heartbeat, placed) for number in range(options.proplets)]
            async with Connection(url) as connection:
                empty_mib, before, began = processes.rss_mib(manager), processes.cpu_s(manager), time.monotonic()
                await _join_all(fleet, BROKER_PORT + options.port_offset)
                await _registered(connection, len(fleet))
                joined_s, joining_cpu = time.monotonic() - began, processes.cpu_s(manager) - before
                watched = {"manager": manager, "mosquitto": broker, "simulation": os.getpid()}
                before_all, began = {who: processes.cpu_s(pid) for who, pid in watched.items()}, time.monotonic()
                await asyncio.sleep(options.seconds)
                elapsed = time.monotonic() - began
                share = {who: 100 * (processes.cpu_s(pid) - before_all[who]) / elapsed for who, pid in watched.items()}
                await _registered(connection, len(fleet))  # nobody was lost meanwhile
                pages = await _pages_ms(connection)
                tasks = await _tasks(url, manager, options.tasks, placed) if options.tasks else {}
                full_mib = processes.rss_mib(manager)
            for proplet in fleet:
                proplet.leave()
    details = {
        "proplets": options.proplets,
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
