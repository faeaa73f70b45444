"""A proplet that is killed after its large result was uploaded, and before it said so, loses nothing. Real processes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web

from manager.app import managing
from manager.settings import ManagerSettings
from proxy.settings import ProxySettings
from swashplate.client import Client
from tests.outputs.conftest import Both, Proxy
from tests.peers.conftest import OurProplet, provisioned
from tests.support.ports import free_port
from tests.support.wat import prints_many


class Relay:
    """Between the proplet and the manager's HTTP. Once it kills the proplet instead of telling it the answer."""

    def __init__(self, manager_url: str, proplet: OurProplet) -> None:
        self._manager_url = manager_url
        self._proplet = proplet
        self.answers: list[int] = []

    async def relay(self, request: web.Request) -> web.Response:
        async with aiohttp.ClientSession() as session:
            url = f"{self._manager_url}{request.path_qs}"
            body = await request.read()
            async with session.request(request.method, url, data=body, headers=request.headers) as response:
                self.answers.append(response.status)
        if len(self.answers) == 1:
            await asyncio.to_thread(self._proplet.kill)
            self._proplet.start()
        return web.Response(status=self.answers[-1])


async def test_a_proplet_killed_between_upload_and_result_loses_neither(tmp_path, nats_server):
    broker = provisioned("embedded", nats_server, tmp_path, legacy=False)
    both, relay_port, names = Both(tmp_path), free_port(), broker.credentials.topics

    def identity(role: str, name: str) -> dict[str, str]:
        known = broker.credentials.client(name)
        return {
            f"{role}_DOMAIN_ID": names.domain,
            f"{role}_CHANNEL_ID": names.channel,
            f"{role}_CLIENT_ID": known.id,
            f"{role}_CLIENT_KEY": known.key,
            f"{role}_MQTT_ADDRESS": f"tcp://127.0.0.1:{broker.port}",
        }

    (tmp_path / "manager").mkdir()
    async with AsyncExitStack() as stack:
        stack.enter_context(broker)
        settings = ManagerSettings.load(
            {
                **identity("MANAGER", "manager"),
                "MANAGER_HTTP_PORT": str(both.port),
                "MANAGER_ADVERTISED_URL": f"http://127.0.0.1:{relay_port}",
            }
        )
        buses = settings.bus("manager", clean_session=False), settings.bus("manager-bare", bare=True)
        await stack.enter_async_context(managing(settings, tmp_path / "manager", *buses))
        proxy = Proxy(both.broker, tmp_path / "manager" / "blobs", names)
        proxy.bus = ProxySettings.load(identity("PROXY", "proxy")).bus("proxy")
        await proxy.open()
        await stack.enter_async_context(proxy.bus)
        proplet = stack.enter_context(OurProplet(broker, tmp_path, None))
        relay = Relay(both.url, proplet)
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", relay.relay)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", relay_port).start()
        proplet.start()
        async with Client(both.url) as client:
            task = await both.ended(client, prints_many(400_000), retries=0)
            assert task.status == "completed", task.error
            assert relay.answers == [204, 204]
            assert (await client.tasks.results(task.id)).results == "a" * 400_000
            attempts = (await client.tasks.attempts(task.id)).items
            assert [each.attempt for each in attempts] == [1]
