"""A manager whose store holds very many finished tasks: how long a start and a list page take over HTTP.

Beside it the same manager with an empty store. No task is executed: all wait for a proplet with a label that none has.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvloop
from sqlalchemy import URL, text

from benchmarks import local_stack
from benchmarks.full_store import fill
from benchmarks.lean_http import Connection
from benchmarks.report import Report
from manager.state.storage import FILE
from manager.state.tables import SCHEMA
from swashplate.database import Database, database_url, sqlite_url

SAMPLES = 100
EMPTY_GUEST = base64.b64encode(b"\0asm\1\0\0\0").decode()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=1_000_000, help="how many tasks are there (default 1000000)")
    parser.add_argument(
        "--database", default="", metavar="URL", help="an empty PostgreSQL database; a SQLite file by default"
    )
    parser.add_argument("--port-offset", type=int, default=None, help="added to every port (default: what is free)")


def pages(count: int) -> dict[str, str]:
    """What is asked for, by the name of its figure."""

    def by(metadata: dict[str, Any]) -> str:
        return f"metadata={quote(json.dumps(metadata))}"

    return {
        "first_page": "limit=100",
        "last_page": f"limit=100&offset={count - 100}",
        "middle_page": f"limit=100&offset={count // 2}",
        "page_by_status": "limit=100&status=completed",
        "page_by_name": "limit=100&name=add",
        "page_by_metadata": f"limit=100&{by({'team': 'team-3'})}",
        "page_by_rare_metadata": f"limit=100&{by({'batch': 77, 'all': 'yes'})}",
        "page_by_status_and_metadata": f"limit=100&status=failed&{by({'all': 'yes'})}",
        "page_by_two_common_metadata": f"limit=100&{by({'team': 'team-3', 'all': 'yes'})}",
    }


async def _median_ms(work: Callable[[], Awaitable[Any]], samples: int) -> float:
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def _measure(url: str, count: int) -> dict[str, float]:
    found: dict[str, float] = {}
    spec = {"name": "add", "file": EMPTY_GUEST, "inputs": ["2", "40"], "selector": {"no": "such"}}
    async with Connection(url) as connection:

        async def start() -> None:
            made = await connection.request("POST", "/tasks", json.dumps(spec).encode())
            began = time.perf_counter()
            await connection.request("POST", f"/tasks/{made['id']}/start")
            starts.append((time.perf_counter() - began) * 1000)

        starts: list[float] = []
        await _median_ms(start, SAMPLES)
        found["start"] = statistics.median(starts)
        for name, query in pages(count).items():
            found[name] = await _median_ms(lambda query=query: connection.request("GET", f"/tasks?{query}"), 15)  # type: ignore[misc]
    return found


async def _emptied(url: URL) -> None:
    async with Database(url, SCHEMA) as database:
        for table in reversed(SCHEMA.metadata.sorted_tables):
            await database.run(lambda db, table=table: db.execute(text(f"DELETE FROM {table.name}")))


async def _in_a_stack(options: argparse.Namespace, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="swashplate-bench-") as name:
        folder = Path(name) / "state" / "manager"
        folder.mkdir(parents=True, mode=0o700)
        url = database_url(options.database) if options.database else sqlite_url(folder / FILE)
        await _emptied(url)
        if count:
            await fill(url, count)
        settings = {"MANAGER_DATABASE_URL": options.database} if options.database else {}
        async with local_stack.running(
            Path(name), proplets=1, broker="embedded", settings=settings, offset=options.port_offset
        ) as up:
            return await _measure(up.manager, max(count, 200))


async def measure(options: argparse.Namespace) -> Report:
    empty = await _in_a_stack(options, 0)
    full = await _in_a_stack(options, options.tasks)
    details: dict[str, Any] = {"tasks": options.tasks, "database": "postgresql" if options.database else "sqlite"}
    details |= {f"{name}_ms": round(value, 2) for name, value in full.items() if name != "start"}
    return Report("store", "ms", full["start"], SAMPLES, {"empty store": empty["start"]}, details=details)


def run(options: argparse.Namespace) -> Report:
    return uvloop.run(measure(options))
