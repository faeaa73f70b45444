"""The identity service as the SuperMQ of a test, in its process, and a front that makes a SuperMQ with other habits of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from provision import provision_smq
from provision.brokers import HashedKey
from provision.identity.app import serve
from provision.identity.settings import IdentitySettings
from provision.supermq import PORTS
from tests.support.ports import free_port

Change = Callable[[web.Request, int, Any], tuple[int, Any]]


class SuperMq:
    """``arguments`` lead provisioning to it."""

    def __init__(self, urls: dict[str, str], folder: Path) -> None:
        self.urls = urls
        self.broker_folder = folder / "broker"
        self.session = aiohttp.ClientSession()
        self._token = ""

    @property
    def arguments(self) -> list[str]:
        return [part for service, url in self.urls.items() for part in (f"--{service}-url", url)]

    async def ask(self, method: str, service: str, path: str, body: Any = None) -> Any:
        """What the service answers to its administrator, past any front."""
        if not self._token:
            credentials = {"username": "admin", "password": "12345678"}
            async with self.session.post(self.urls["users"] + "/users/tokens/issue", json=credentials) as answer:
                self._token = (await answer.json())["access_token"]
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self.session.request(method, self.urls[service] + path, json=body, headers=headers) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json(content_type=None)

    async def all(self, service: str, path: str) -> list[dict[str, Any]]:
        return (await self.ask("GET", service, f"{path}?limit=100&status=all"))[service]

    async def clients(self) -> dict[str, list[str]]:
        """Name → ids, of every client of every domain."""
        found: dict[str, list[str]] = {}
        for domain in await self.all("domains", "/domains"):
            for client in await self.all("clients", f"/{domain['id']}/clients"):
                found.setdefault(client["name"], []).append(client["id"])
        return found

    def lets_in(self, client_id: str, key: str) -> bool:
        """Does the broker's password file hold this key?"""
        for line in (self.broker_folder / "passwords").read_text().splitlines():
            user, _, kept = line.partition(":")
            if user == client_id:
                return HashedKey(mosquitto=kept, nats="").matches(key)
        return False

    def topics(self, client_id: str) -> list[str]:
        """What the broker's access list says of a client."""
        blocks = (self.broker_folder / "acl").read_text().split("\n\n")
        found = [block for block in blocks if f"\nuser {client_id}\n" in f"\n{block}\n"]
        return [line for block in found for line in block.splitlines() if line.startswith("topic ")]


@asynccontextmanager
async def identity(folder: Path, faults: str = "") -> AsyncIterator[SuperMq]:
    """Serve on free ports; what it keeps is in ``folder``, so that the next one there goes on with it."""
    ports = {service: free_port() for service in PORTS}
    environ = {f"IDENTITY_{service.upper()}_PORT": str(port) for service, port in ports.items()}
    environ |= {"IDENTITY_STATE_DIR": str(folder / "identity"), "IDENTITY_BROKER_DIR": str(folder / "broker")}
    stop = asyncio.Event()
    running = asyncio.create_task(serve(IdentitySettings.load(environ | {"IDENTITY_FAULTS": faults}), stop))
    found = SuperMq({service: f"http://127.0.0.1:{port}" for service, port in ports.items()}, folder)
    try:
        async with found.session:
            async with asyncio.timeout(20):
                while not await _listens(ports["clients"]):  # the last one that it serves
                    assert not running.done(), running
            yield found
    finally:
        stop.set()
        await running


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.01)
        return False
    writer.close()
    return True


@asynccontextmanager
async def front(real: SuperMq, change: Change) -> AsyncIterator[list[str]]:
    """The arguments that lead provisioning past ``change``, which sees each request with its answer and returns another."""

    async def forward(service: str, request: web.Request) -> web.Response:
        headers = {k: v for k, v in request.headers.items() if k in {"Authorization", "Content-Type"}}
        url = real.urls[service] + request.path_qs
        async with real.session.request(request.method, url, data=await request.read(), headers=headers) as answer:
            text = await answer.text()
        body = json.loads(text) if text else None
        status, body = change(request, answer.status, body)
        return web.json_response(body, status=status)

    runners, arguments = [], []
    try:
        for service in PORTS:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", partial(forward, service))
            runner = web.AppRunner(app)
            runners.append(runner)
            await runner.setup()
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            arguments += [f"--{service}-url", f"http://127.0.0.1:{port}"]
        yield arguments
    finally:
        for runner in runners:
            await runner.cleanup()


async def provision(arguments: list[str], env_file: Path, *more: str) -> None:
    """Provision as the command line does, outside of the event loop; raises what it raises.

    Where ``arguments`` name no URL it reaches nothing: at the default ports somebody's own services may listen.
    """
    given = [part for service in PORTS for part in (f"--{service}-url", "http://127.0.0.1:1")]
    given += [*arguments, "--env-file", str(env_file), "--wait", "5", *more]
    await asyncio.to_thread(provision_smq.run, given, program="provision_smq.py", env_file=env_file)
