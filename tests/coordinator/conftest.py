"""A coordinator with a real model registry, a real aggregator and a small manager, in this process."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coordinator import aggregator, registry
from coordinator.app import coordinating
from coordinator.settings import CoordinatorSettings
from swashplate.bus import MemoryBroker, MemoryBus, Received
from swashplate.http import HttpService, Route, answer
from swashplate.messages import RoundTask, TaskCreate
from swashplate.topics import Topics
from tests.support.ports import free_port

HOST = "127.0.0.1"
Answer = tuple[int, Any]


class FakeManager:
    """The manager's task API: it creates tasks and runs nothing. Whoever is not ``alive`` or ``known`` is refused.

    ``meanwhile`` happens once, before the next task is created.
    """

    def __init__(self) -> None:
        self.known = {"p-1", "p-2", "p-3"}
        self.alive = {"p-1", "p-2", "p-3"}
        self.legacy: set[str] = set()
        self.tasks: dict[str, dict[str, Any]] = {}
        self.sent: dict[str, TaskCreate] = {}
        self.requests: list[str] = []
        self.created = asyncio.Event()
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def create(self, request: web.Request) -> web.Response:
        task, key = TaskCreate.decode(await request.text()), request.headers["Idempotency-Key"]
        self.requests.append(key)
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            await happens()
        if key in self.tasks:
            return answer(self.tasks[key], status=200)
        proplet = task.proplet_id or ""
        if proplet not in self.known:
            return answer({"error": f"there is no proplet {proplet}", "code": "proplet_not_found"}, status=404)
        if proplet not in self.alive:
            return answer({"error": f"{proplet} is not alive", "code": "proplet_not_alive"}, status=409)
        self.tasks[key] = {"id": f"task-{len(self.tasks) + 1}", "name": task.name, "state": 2, "status": "Running"}
        self.sent[key] = task
        self.created.set()
        return answer(self.tasks[key], status=201)

    async def read(self, request: web.Request) -> web.Response:
        return answer(next(t for t in self.tasks.values() if t["id"] == request.match_info["id"]))

    async def proplet(self, request: web.Request) -> web.Response:
        proplet = request.match_info["id"]
        return answer({"id": proplet, "legacy": proplet in self.legacy})

    def service(self) -> HttpService:
        routes = [
            Route("GET", "/proplets/{id}", self.proplet, "A proplet"),
            Route("POST", "/tasks", self.create, "Create a task"),
            Route("GET", "/tasks/{id}", self.read, "A task"),
        ]
        return HttpService("manager", routes)


class World:
    """Everything around one coordinator; ``start`` and ``stop`` switch each part on and off over the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.topics = Topics("d", "c")
        self.manager = FakeManager()
        self.ports = {name: free_port() for name in ("manager", "coordinator", "registry", "aggregator")}
        self.heard: list[Received] = []
        self.bare_allowed = True
        self._running: dict[str, AsyncExitStack] = {}
        (folder / "coordinator").mkdir()
        (folder / "registry").mkdir()

    def allows(self, client: str, what: str, _topic: str) -> bool:
        return self.bare_allowed or (client, what) != ("coordinator-bare", "publish")

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self.ports[name]}"

    async def start(self, *names: str) -> None:
        for name in names or ("manager", "registry", "aggregator", "coordinator"):
            stack = AsyncExitStack()
            await stack.enter_async_context(self._part(name))
            self._running[name] = stack

    async def stop(self, *names: str) -> None:
        for name in names or tuple(reversed(self._running)):
            if name in self._running:
                await self._running.pop(name).aclose()

    def _part(self, name: str) -> Any:
        match name:
            case "manager":
                return self.manager.service().serving(HOST, self.ports[name])
            case "registry":
                return registry.serving(HOST, self.ports[name], self.folder / "registry")
            case "aggregator":
                return aggregator.http_service().serving(HOST, self.ports[name])
        settings = CoordinatorSettings(
            COORDINATOR_PORT=self.ports["coordinator"],
            COORDINATOR_STATE_DIR=self.folder / "coordinator",
            MODEL_REGISTRY_URL=self.url("registry"),
            AGGREGATOR_URL=self.url("aggregator"),
            MANAGER_URL=self.url("manager"),
            COORDINATOR_DOMAIN_ID="d",
            COORDINATOR_CHANNEL_ID="c",
            MQTT_CLIENT_ID="coordinator",
        )
        self.bus = MemoryBus(self.broker, client_id="coordinator", clean_session=False)
        return coordinating(settings, self.bus, lambda: MemoryBus(self.broker, client_id="coordinator-bare"))

    async def call(self, method: str, name: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Status and parsed body; header names are given with underscores."""
        data = body if isinstance(body, str | None) else json.dumps(body)
        sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.session.request(method, self.url(name) + path, data=data, headers=sent) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def configure(self, round_id: str = "r-1", **changes: Any) -> Answer:
        return await self.call("POST", "coordinator", "/experiments", self.config(round_id, **changes))

    def config(self, round_id: str = "r-1", **changes: Any) -> dict[str, Any]:
        config = {
            "experiment_id": "e-1",
            "round_id": round_id,
            "model_ref": "fl/models/global_model_v0",
            "participants": ["p-1", "p-2", "p-3"],
            "hyperparams": {"epochs": 2, "lr": 0.1},
            "k_of_n": 3,
            "timeout_s": 60,
            "task_wasm_image": "registry.example/fl-client:latest",
            **changes,
        }
        return {name: value for name, value in config.items() if value is not None}

    def token(self, proplet: str, round_id: str = "r-1") -> str:
        return self.manager.sent[f"{round_id}/{proplet}"].tokens["update"]

    async def update(
        self,
        proplet: str,
        *,
        w: list[Any] | None = None,
        b: Any = 1,
        samples: Any = 10,
        round_id: str = "r-1",
        token: str | None = None,
        **changes: Any,
    ) -> Answer:
        body = {
            "round_id": round_id,
            "proplet_id": proplet,
            "base_model_uri": "fl/models/global_model_v0",
            "num_samples": samples,
            "metrics": {"loss": 0.5},
            "update": {"w": [1, 2, 3] if w is None else w, "b": b},
            **changes,
        }
        token = self.token(proplet, round_id) if token is None else token
        return await self.call("POST", "coordinator", "/update", body, X_Attempt_Token=token)

    async def over(self, round_id: str = "r-1", *, wait: float = 20) -> Any:
        status, body = await self.call("GET", "coordinator", f"/rounds/{round_id}/complete?wait={wait}")
        assert status == 200
        return body

    def task_ended(self, proplet: str, *, round_id: str = "r-1", **fields: str) -> None:
        task_id = self.manager.tasks[f"{round_id}/{proplet}"]["id"]
        ended = RoundTask(round_id=round_id, proplet_id=proplet, task_id=task_id, **fields)
        self.broker.publish("manager", self.topics.round_task(round_id, proplet), ended.encode())

    def rows(self) -> list[Any]:
        """Everything that the coordinator has on its disk."""
        with closing(sqlite3.connect(self.folder / "coordinator" / "rounds.sqlite3")) as rounds:
            tables = ("rounds", "participants", "updates")
            return [rounds.execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    @contextmanager
    def broken(self, table: str, column: str) -> Iterator[None]:
        """The coordinator's database can neither read nor write whole rows of a table."""
        with closing(sqlite3.connect(self.folder / "coordinator" / "rounds.sqlite3")) as rounds:
            rounds.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO away")
            try:
                yield
            finally:
                rounds.execute(f"ALTER TABLE {table} RENAME COLUMN away TO {column}")

    @contextmanager
    def slow_disk(self, name: str) -> Iterator[None]:
        """The database of the coordinator or the registry does nothing meanwhile, which may be up to 5 seconds."""
        (file,) = (self.folder / name).glob("*.sqlite3")
        with closing(sqlite3.connect(file, isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                held.execute("COMMIT")

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            await asyncio.sleep(0.005)

    def topics_heard(self) -> list[str]:
        return [message.topic for message in self.heard]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.broker = MemoryBroker(allows=made.allows)
    listener = MemoryBus(made.broker, client_id="listener")

    async def hear(message: Received) -> None:
        made.heard.append(message)

    await listener.subscribe("fl/rounds/next", hear)
    await listener.subscribe(made.topics.round_next, hear)
    async with aiohttp.ClientSession() as made.session, listener:
        await made.start()
        try:
            yield made
        finally:
            await made.stop()
