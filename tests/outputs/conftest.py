"""A real manager and real proplets in one process, on a bus in memory; only the proxy is made up."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
import wasmtime

from manager.app import managing
from manager.settings import ManagerSettings
from proplet.app import running
from proplet.settings import PropletSettings
from swashplate.bus import MemoryBroker, MemoryBus
from swashplate.client import Client
from swashplate.messages import BlobRequest
from swashplate.messages.base import digest_hex
from swashplate.topics import Topics
from tests.proplet.conftest import NAMES, FakeProxy, logged
from tests.support.ports import free_port

__all__ = ["logged"]

PATIENCE = 30


class Proxy(FakeProxy):
    """Serves the manager's blobs."""

    def __init__(self, broker: MemoryBroker, folder, names: Topics = NAMES) -> None:
        super().__init__(broker, names)
        self._folder = folder

    async def _asked(self, message) -> None:
        digest = BlobRequest.decode(message.payload).digest
        with suppress(FileNotFoundError):
            self.blobs[digest] = (self._folder / digest_hex(digest)).read_bytes()
        await super()._asked(message)


class Both:
    """The manager, and whatever proplets a test starts."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings: dict[str, str] = {}

    @asynccontextmanager
    async def manager(self):
        identity = {
            f"MANAGER_{name}": value
            for name, value in (
                ("DOMAIN_ID", "d"),
                ("CHANNEL_ID", "c"),
                ("CLIENT_ID", "manager"),
                ("CLIENT_KEY", "key"),
            )
        }
        settings = ManagerSettings.load(
            {**identity, "MANAGER_HTTP_PORT": str(self.port), "MANAGER_HEARTBEAT_S": "1", **self.settings}
        )
        bus = MemoryBus(self.broker, client_id="manager", clean_session=False)
        bare = MemoryBus(self.broker, client_id="manager-bare")
        async with managing(settings, self.folder / "manager", bus, bare) as manager:
            yield manager

    @asynccontextmanager
    async def proplet(self, proplet_id: str = "p1", **changes):
        known = {
            "PROPLET_DOMAIN_ID": "d",
            "PROPLET_CHANNEL_ID": "c",
            "PROPLET_CLIENT_ID": proplet_id,
            "PROPLET_CLIENT_KEY": "key",
            "PROPLET_STATE_DIR": str(self.folder / proplet_id),
            "PROPLET_TASK_DIR": str(self.folder / f"{proplet_id}-tasks"),
            "PROPLET_METRICS_PORT": "0",
            "PROPLET_SLOTS": "2",
        }
        settings = PropletSettings.load({**known, **changes})
        buses = []

        def bus(client_id, will):
            buses.append(MemoryBus(self.broker, client_id=client_id, will=will))
            return buses[-1]

        async with running(settings, bus) as proplet:
            yield proplet

    async def launch(self, client: Client, wat: str, **fields):
        binary = base64.b64encode(bytes(wasmtime.wat2wasm(wat))).decode()
        return await client.tasks.create({"name": "t", "file": binary, "start": True, **fields})

    async def ended(self, client: Client, wat: str, **fields):
        task = await self.launch(client, wat, **fields)
        return await client.tasks.wait(task.id, timeout=PATIENCE)

    async def until(self, condition):
        """What an awaitable condition gives once it gives something."""
        async with asyncio.timeout(PATIENCE):
            while not (found := await condition()):
                await asyncio.sleep(0.01)
        return found

    async def raw(self, method: str, path: str, **options) -> tuple[int, dict]:
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path, **options) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else {}


@pytest.fixture
async def both(tmp_path):
    (tmp_path / "manager").mkdir()
    found = Both(tmp_path)
    proxy = Proxy(found.broker, tmp_path / "manager" / "blobs")
    await proxy.open()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(proxy.bus)
        yield found


@pytest.fixture
async def client(both):
    async with Client(both.url) as made:
        yield made
