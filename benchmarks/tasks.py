"""Trivial tasks through the whole stack: created, started, executed in wasmtime, result recorded; and one at a time.

Two proplets with two slots each. Every task adds two numbers of its own, and every sum is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import uvloop
import wasmtime

from benchmarks import local_stack, processes
from benchmarks.lean_http import Connection
from benchmarks.report import Report
from swashplate.messages import MAX_QUEUE

ADD = bytes(
    wasmtime.wat2wasm(
        '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'
    )
)
PROPLETS, SLOTS, CLIENTS = 2, 2, 16
ENDED = {"completed", "failed", "interrupted", "skipped"}
LOOK_AGAIN_S = 0.25
STUCK_AFTER_S = 60.0

PROPELLER = {
    "cited": 1534.0,
    "source": "Propeller's manager: store in memory, mosquitto, 16 clients, a proplet that answers without executing, 2 cores",
}
PROPELLER_P50_MS = 88.8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=10_000, help="how many tasks (default 10000)")
    parser.add_argument("--runs", type=int, default=1, help="how often, on the same stack (default 1)")
    parser.add_argument("--singles", type=int, default=200, help="how many tasks one at a time (default 200)")
    parser.add_argument("--broker", default="embedded", choices=["embedded", "mosquitto"])
    parser.add_argument(
        "--database", default="", metavar="URL", help="the manager's database; its own SQLite by default"
    )
    parser.add_argument("--one-request", action="store_true", help="create and start in one request instead of two")
    parser.add_argument("--port-offset", type=int, default=None, help="added to every port (default: what is free)")


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * percent / 100))]


def body_of(number: int, *, start: bool) -> bytes:
    spec = {"name": "add", "file": base64.b64encode(ADD).decode(), "inputs": [str(number), "1"], "start": start}
    return json.dumps(spec).encode()


class Load:
    """``one_request``: create says ``start``, instead of a second request for it as the existing API has it."""

    def __init__(self, url: str, *, one_request: bool) -> None:
        self._url = url
        self._one = one_request
        self.expected: dict[str, int] = {}
        """The sum that each task must come to, by its id."""

    async def launch(self, connection: Connection, number: int) -> str:
        task = await connection.request("POST", "/tasks", body_of(number, start=self._one))
        task_id = str(task["id"])
        self.expected[task_id] = number + 1
        if not self._one:
            await connection.request("POST", f"/tasks/{task_id}/start")
        return task_id

    async def launch_all(self, numbers: range) -> None:
        left = iter(numbers)

        async def client() -> None:
            async with Connection(self._url) as connection:
                for number in left:
                    await self.launch(connection, number)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    async def single_ms(self, connection: Connection, number: int) -> tuple[float, int]:
        """Milliseconds from the first request to the readable result, and how many requests that took."""
        began = time.perf_counter()
        task_id = await self.launch(connection, number)
        asked = 0
        while True:
            asked += 1
            task = await connection.request("GET", f"/tasks/{task_id}?wait=30")
            if task["status"] in ENDED:
                break
            await asyncio.sleep(0.001)  # a manager that does not wait
        elapsed = (time.perf_counter() - began) * 1000
        self.check(task)
        return elapsed, asked

    def check(self, task: dict[str, Any]) -> None:
        expected = self.expected[task["id"]]
        if task["status"] != "completed" or int(task["results"]) != expected:
            raise RuntimeError(f"task {task['id']} should have come to {expected}: {task}")

    async def all_ended(self) -> None:
        """Until the newest page has ended; asks so rarely that it costs the manager nothing."""
        last, changed_at = -1, time.monotonic()
        async with Connection(self._url) as connection:
            while True:
                page = (await connection.request("GET", "/tasks?limit=100"))["tasks"]
                ended = sum(task["status"] in ENDED for task in page)
                if ended == len(page):
                    return
                if ended != last:
                    last, changed_at = ended, time.monotonic()
                if time.monotonic() - changed_at > STUCK_AFTER_S:
                    raise RuntimeError(
                        f"nothing has ended for {STUCK_AFTER_S:g} s; {ended} of the newest {len(page)} have"
                    )
                await asyncio.sleep(LOOK_AGAIN_S)

    async def checked(self, wanted: set[str]) -> tuple[float, int]:
        """Reads every task: each completed, once, with its own sum. The time of the last end (seconds since the epoch), and
        how many tasks took more than one attempt.
        """
        ends, repeated, offset = [], 0, 0
        async with Connection(self._url) as connection:
            while wanted:
                page = (await connection.request("GET", f"/tasks?limit=100&offset={offset}"))["tasks"]
                if not page:
                    raise RuntimeError(f"{len(wanted)} tasks are lost")
                offset += len(page)
                for task in page:
                    if task["id"] not in wanted:
                        continue
                    if task["status"] not in ENDED:
                        task = await self._ended(connection, task["id"])  # noqa: PLW2901
                    self.check(task)
                    wanted.discard(task["id"])
                    repeated += task["attempt"] > 1
                    ends.append(datetime.fromisoformat(task["finish_time"]).timestamp())
        return max(ends), repeated

    @staticmethod
    async def _ended(connection: Connection, task_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + STUCK_AFTER_S
        while time.monotonic() < deadline:
            task: dict[str, Any] = await connection.request("GET", f"/tasks/{task_id}?wait=5")
            if task["status"] in ENDED:
                return task
            await asyncio.sleep(LOOK_AGAIN_S)
        raise RuntimeError(f"task {task_id} does not end")


async def one_run(load: Load, up: local_stack.LocalStack, numbers: range) -> dict[str, Any]:
    known = set(load.expected)
    roles = processes.roles_below(up.pid)
    own = [("load generator", os.getpid())]
    before = processes.cpu_by_role(roles, own)
    began = time.time()
    await load.launch_all(numbers)
    launched = time.time()
    await load.all_ended()
    used = processes.cpu_by_role(roles, own)
    used.subtract(before)
    last, repeated = await load.checked(set(load.expected) - known)
    count = len(numbers)
    per_task = {name: round(seconds / count * 1e6) for name, seconds in used.most_common() if seconds > 0}
    return {
        "tasks_per_s": count / (last - began),
        "launched_per_s": count / (launched - began),
        "needed_more_attempts": repeated,
        "cpu_us_per_task": {**per_task, "all": sum(per_task.values())},
    }


async def measure(options: argparse.Namespace) -> Report:
    settings = {"PROPLET_SLOTS": str(SLOTS), "PROPLET_QUEUE": str(MAX_QUEUE), "LOG_LEVEL": "info"}
    if options.database:
        settings["MANAGER_DATABASE_URL"] = options.database
    with tempfile.TemporaryDirectory(prefix="swashplate-bench-") as name:
        async with local_stack.running(
            Path(name), proplets=PROPLETS, broker=options.broker, settings=settings, offset=options.port_offset
        ) as up:
            load = Load(up.manager, one_request=options.one_request)
            singles, asked = [], 0
            async with Connection(up.manager) as connection:
                for number in range(20):  # the binary is fetched and compiled
                    await load.single_ms(connection, number)
                for number in range(options.singles):
                    elapsed, requests = await load.single_ms(connection, number)
                    singles.append(elapsed)
                    asked += requests
            runs = [await one_run(load, up, range(options.tasks)) for _ in range(options.runs)]
    singles.sort()
    details: dict[str, Any] = {
        "tasks": options.tasks,
        "broker": options.broker,
        "requests_per_task": 1 if options.one_request else 2,
        "single_p50_ms": round(percentile(singles, 50), 2),
        "single_p99_ms": round(percentile(singles, 99), 2),
        "single_p50_ms_of_propeller": PROPELLER_P50_MS,
        "single_reads_per_task": round(asked / len(singles), 2),
        "runs": [
            {**run, "tasks_per_s": round(run["tasks_per_s"], 1), "launched_per_s": round(run["launched_per_s"], 1)}
            for run in runs
        ],
    }
    median = statistics.median(run["tasks_per_s"] for run in runs)
    return Report("tasks", "tasks/s", median, len(runs), {"propeller-manager": dict(PROPELLER)}, details=details)


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measure(options))
