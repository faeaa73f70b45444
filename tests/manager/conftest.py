"""A manager on a bus in memory, with a proxy and proplets that do as the test says."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from contextlib import asynccontextmanager, closing, contextmanager

import aiohttp
import pytest

from manager.app import managing
from manager.settings import ManagerSettings
from swashplate.bus import MemoryBroker, MemoryBus, Received, Will
from swashplate.messages import (
    Ack,
    Alive,
    AttemptStatus,
    Capabilities,
    Invoke,
    InvokeResult,
    PropletCreate,
    Resolve,
    Resolved,
    Result,
    Start,
    Stop,
)
from swashplate.topics import Topics
from tests.support.ports import free_port

PATIENCE = 10
NAMES = Topics("d", "c")
DIGEST = "sha256:" + "ab" * 32


class FakeProxy:
    """Says what the test set in ``images``; an unknown image is not found."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.bus = MemoryBus(broker, client_id="proxy")
        self.images: dict[str, str] = {"registry/image:1": DIGEST}
        self.asked: list[str] = []
        self.size = 10
        self.registry_away = False

    async def answer(self, message: Received) -> None:
        request = Resolve.decode(message.payload)
        self.asked.append(request.image)
        digest = self.images.get(request.image)
        found = (
            {"digest": digest, "size": self.size} if digest else {"error": "no such image", "code": "image_not_found"}
        )
        if self.registry_away:
            found = {"error": "no route to the registry", "code": "registry_unreachable", "retryable": True}
        said = Resolved(request_id=request.request_id, image=request.image, **found)
        await self.bus.publish(NAMES.resolve_reply, said.encode())


class FakeProplet:
    """Registers, and hands every start and ack to the test."""

    def __init__(self, broker: MemoryBroker, proplet_id: str) -> None:
        self.id = proplet_id
        self.instance = uuid.uuid4().hex
        self.starts: asyncio.Queue[Start] = asyncio.Queue()
        self.acks: asyncio.Queue[str] = asyncio.Queue()
        self.stops: asyncio.Queue[Stop] = asyncio.Queue()
        self.invokes: asyncio.Queue[Invoke] = asyncio.Queue()
        self.capabilities = Capabilities()
        offline = Alive(proplet_id=proplet_id, instance=self.instance, status="offline")
        will = Will(NAMES.proplet(proplet_id, "alive"), offline.encode())
        self.bus = MemoryBus(broker, client_id=proplet_id, will=will)
        self.bus.on_connect(self.register)

    async def register(self, **capabilities) -> None:
        """As it is, or from now on with other capabilities."""
        self.capabilities = self.capabilities.model_copy(update=capabilities)
        said = PropletCreate(proplet_id=self.id, instance=self.instance, capabilities=self.capabilities)
        await self.say("create", said)

    async def say(self, kind: str, message) -> None:
        await self.bus.publish(NAMES.proplet(self.id, kind), message.encode())

    async def alive(self, *running: Start, free_slots: int = 1) -> None:
        refs = [{"task_id": start.id, "attempt": start.attempt} for start in running]
        alive = {"proplet_id": self.id, "instance": self.instance, "status": "alive", "running": refs}
        await self.say("alive", Alive.model_validate({**alive, "free_slots": free_slots}))

    async def started(self) -> Start:
        async with asyncio.timeout(PATIENCE):
            return await self.starts.get()

    async def status(self, start: Start, status: str, **more) -> str:
        said = AttemptStatus(
            id=uuid.uuid4().hex, task_id=start.id, attempt=start.attempt, proplet_id=self.id, status=status, **more
        )
        await self.say("status", said)
        return said.id

    async def result(self, start: Start, results=None, *, message_id: str | None = None, **more) -> str:
        said = Result(
            id=message_id or uuid.uuid4().hex,
            task_id=start.id,
            attempt=start.attempt,
            proplet_id=self.id,
            results=results,
            **more,
        )
        await self.say("results", said)
        return said.id

    async def deployed(self) -> Start:
        """The next start, accepted and ready to be invoked."""
        start = await self.started()
        await self.status(start, "accepted")
        await self.acknowledged(await self.status(start, "ready"))
        return start

    async def invoked(self) -> Invoke:
        async with asyncio.timeout(PATIENCE):
            return await self.invokes.get()

    async def invoke_result(self, invoke: Invoke, results=None, **more) -> str:
        said = InvokeResult(
            id=uuid.uuid4().hex,
            invocation_id=invoke.invocation_id,
            task_id=invoke.task_id,
            attempt=invoke.attempt,
            proplet_id=self.id,
            results=results,
            **more,
        )
        await self.say("invoke_results", said)
        return said.id

    async def stopped(self) -> Stop:
        """The next stop, obeyed."""
        async with asyncio.timeout(PATIENCE):
            stop = await self.stops.get()
        said = Result(
            id=uuid.uuid4().hex,
            task_id=stop.id,
            attempt=stop.attempt,
            proplet_id=self.id,
            error="stopped",
            code="stopped",
        )
        await self.say("results", said)
        return stop

    async def acknowledged(self, message_id: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.acks.get() != message_id:
                pass

    async def _start(self, message: Received) -> None:
        self.starts.put_nowait(Start.decode(message.payload))

    async def _stop(self, message: Received) -> None:
        self.stops.put_nowait(Stop.decode(message.payload))

    async def _invoke(self, message: Received) -> None:
        self.invokes.put_nowait(Invoke.decode(message.payload))

    async def _ack(self, message: Received) -> None:
        for message_id in Ack.decode(message.payload).ids:
            self.acks.put_nowait(message_id)

    async def listen(self) -> None:
        await self.bus.subscribe(NAMES.to_proplet(self.id, "start"), self._start)
        await self.bus.subscribe(NAMES.to_proplet(self.id, "ack"), self._ack)
        await self.bus.subscribe(NAMES.to_proplet(self.id, "stop"), self._stop)
        await self.bus.subscribe(NAMES.to_proplet(self.id, "invoke"), self._invoke)


class World:
    """One broker, one state folder, one port; the manager can be stopped and started again."""

    def __init__(self, folder, session: aiohttp.ClientSession) -> None:
        self.folder = folder
        self.session = session
        self.broker = MemoryBroker()
        self.proxy = FakeProxy(self.broker)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.coordinator_url = f"http://127.0.0.1:{free_port()}"
        self.heartbeat_s = "5"
        self.ahead_s = 0.0
        """How far the manager's clock is ahead of ours."""
        self.settings: dict[str, str] = {}

    @asynccontextmanager
    async def manager(self):
        settings = ManagerSettings.load(
            {
                "MANAGER_DOMAIN_ID": "d",
                "MANAGER_CHANNEL_ID": "c",
                "MANAGER_CLIENT_ID": "manager",
                "MANAGER_CLIENT_KEY": "key",
                "MANAGER_HTTP_PORT": str(self.port),
                "MANAGER_COORDINATOR_URL": self.coordinator_url,
                "MANAGER_HEARTBEAT_S": self.heartbeat_s,
                **self.settings,
            }
        )
        bus = MemoryBus(self.broker, client_id="manager", clean_session=False)
        bare = MemoryBus(self.broker, client_id="manager-bare")
        async with managing(settings, self.folder, bus, bare, clock=lambda: time.time() + self.ahead_s) as manager:
            yield manager

    @contextmanager
    def broken(self, table: str, column: str):
        """The manager's database can neither read nor write whole rows of a table."""
        with closing(sqlite3.connect(self.folder / "manager.db")) as database:
            database.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO away")
            try:
                yield
            finally:
                database.execute(f"ALTER TABLE {table} RENAME COLUMN away TO {column}")

    @asynccontextmanager
    async def proplet(self, proplet_id: str, **capabilities):
        proplet = FakeProplet(self.broker, proplet_id)
        proplet.capabilities = Capabilities(**capabilities)
        await proplet.listen()
        async with proplet.bus:
            await self.until(lambda shown: shown["alive"], f"/proplets/{proplet_id}")
            yield proplet

    @asynccontextmanager
    async def proplet_known(self, proplet_id: str):
        """A proplet that is connected before, between and after the lives of the manager."""
        proplet = FakeProplet(self.broker, proplet_id)
        await proplet.listen()
        async with proplet.bus:
            yield proplet

    async def call(self, method: str, path: str, body=None, **headers):
        async with self.session.request(
            method,
            self.url + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **headers},
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def until(self, condition, path: str):
        """Ask again until the answer fulfils the condition."""
        async with asyncio.timeout(PATIENCE):
            while True:
                status, body = await self.call("GET", path)
                if status == 200 and condition(body):
                    return body
                await asyncio.sleep(0.005)

    async def ended(self, task_id: str):
        return await self.until(
            lambda task: task["status"] in {"completed", "failed", "interrupted"}, f"/tasks/{task_id}"
        )

    async def launch(self, **fields):
        status, task = await self.call(
            "POST", "/tasks", {"name": "t", "image_url": "registry/image:1", "start": True, **fields}
        )
        assert status == 201, task
        return task


@pytest.fixture
async def world(tmp_path):
    async with aiohttp.ClientSession() as session:
        found = World(tmp_path, session)
        await found.proxy.bus.subscribe(NAMES.resolve_request, found.proxy.answer)
        async with found.proxy.bus:
            yield found
