"""The proxy as a process on a real broker with its access lists, serving a binary of many megabytes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from swashplate.blobs import sha256_digest
from swashplate.bus import BrokerAddress, MqttBus
from swashplate.messages import BlobInfo, BlobRequest, Resolve, Resolved, digest_hex
from swashplate.topics import last_level
from tests.support.ports import free_port

BINARY = b"\0asm" + random.Random(7).randbytes(20_000_000)
WINDOW = 16


@asynccontextmanager
async def proxy_process(broker, folder: Path, http_port: int):
    client = broker.credentials.client("proxy")
    environ = os.environ | {
        "PROXY_DOMAIN_ID": broker.credentials.domain_id,
        "PROXY_CHANNEL_ID": broker.credentials.channel_id,
        "PROXY_CLIENT_ID": client.id,
        "PROXY_CLIENT_KEY": client.key,
        "PROXY_MQTT_ADDRESS": f"tcp://127.0.0.1:{broker.port}",
        "PROXY_HTTP_PORT": str(http_port),
        "PROXY_STATE_DIR": str(folder / "proxy"),
    }
    with (folder / "proxy.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", env=environ, stderr=log)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        assert await child.wait() == 0


async def health(session: aiohttp.ClientSession, port: int, status: int) -> dict[str, object]:
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health") as response:
                    if response.status == status:
                        return await response.json()
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


def bus_of(broker, name: str) -> MqttBus:
    client = broker.credentials.client(name)
    address = BrokerAddress("127.0.0.1", broker.port)
    return MqttBus(address, client_id=f"{client.id}-test", username=client.id, password=client.key)


async def receive_all(bus: MqttBus, topics, me: str, image: str) -> bytes:
    """As a proplet does: a window of chunks at a time, until the binary is whole."""
    chunks: dict[int, bytes] = {}
    infos: asyncio.Queue[BlobInfo] = asyncio.Queue()
    news = asyncio.Event()

    async def hear(received) -> None:
        infos.put_nowait(BlobInfo.decode(received.payload))

    async def collect(received) -> None:
        chunks[int(last_level(received.topic))] = received.payload
        news.set()

    digest = sha256_digest(BINARY)
    await bus.subscribe(topics.blob_reply(me), hear)
    await bus.subscribe(topics.chunks_of(digest_hex(digest)), collect, qos=0)

    async def ask(indexes: list[int]) -> BlobInfo:
        request = BlobRequest(request_id="q", digest=digest, image=image, indexes=indexes)
        await bus.publish(topics.blob_request(me), request.encode())
        return await infos.get()

    count = (await ask([])).chunks
    while len(chunks) < count:
        missing = [i for i in range(count) if i not in chunks][:WINDOW]
        await ask(missing)
        while not chunks.keys() >= set(missing):
            news.clear()
            await asyncio.wait_for(news.wait(), 10)
    return b"".join(chunks[i] for i in range(count))


async def test_a_proplet_receives_a_large_binary_through_a_real_broker(broker, registry, tmp_path, session):
    await registry.push("app", "v1", BINARY)
    image, port, topics = f"{registry.host}/app:v1", free_port(), broker.credentials.topics
    async with proxy_process(broker, tmp_path, port):
        assert await health(session, port, 200) == {"status": "ok", "service": "proxy"}
        resolved: asyncio.Queue[bytes] = asyncio.Queue()
        async with bus_of(broker, "manager") as manager, bus_of(broker, "proplet-1") as proplet:

            async def hear(received) -> None:
                resolved.put_nowait(received.payload)

            await manager.subscribe(topics.resolve_reply, hear)
            await manager.wait_connected(10)
            await manager.publish(topics.resolve_request, Resolve(request_id="r", image=image).encode())
            assert Resolved.decode(await asyncio.wait_for(resolved.get(), 10)).digest == sha256_digest(BINARY)
            await proplet.wait_connected(10)
            assert await receive_all(proplet, topics, broker.id("proplet-1"), image) == BINARY
    lines = [json.loads(line) for line in (tmp_path / "proxy.log").read_text().splitlines()]
    subscribed = [line["topic"] for line in lines if line["msg"] == "successfully subscribed to topic"]
    assert topics.every_blob_request in subscribed
    assert any(line["msg"] == "successfully sent all chunks" for line in lines)


async def test_health_tells_that_the_broker_is_gone_and_back(broker, tmp_path, session):
    port = free_port()
    async with proxy_process(broker, tmp_path, port):
        await health(session, port, 200)
        broker.kill()
        async with asyncio.timeout(20):
            while "cannot be reached" not in (await health(session, port, 503))["down"]["mqtt"]:
                await asyncio.sleep(0.02)
        broker.start()
        await health(session, port, 200)


async def test_health_tells_that_the_broker_refuses_the_credentials_until_they_are_right(broker, tmp_path, session):
    port, config = free_port(), broker._config.read_text()
    broker.kill()
    broker._config.write_text(config.replace(f'user: "{broker.id("proxy")}"', 'user: "somebody else"'))
    broker.start()
    async with proxy_process(broker, tmp_path, port):
        async with asyncio.timeout(20):
            while "refuses the credentials" not in (await health(session, port, 503))["error"]:
                await asyncio.sleep(0.02)
        broker._config.write_text(config)
        broker._process.send_signal(signal.SIGHUP)
        await health(session, port, 200)
    said = (tmp_path / "proxy.log").read_text()
    assert said.count("refuses the credentials") == 1
    assert "verify PROXY_CLIENT_ID and PROXY_CLIENT_KEY, and provision again" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
async def test_health_is_not_served_beyond_this_machine_by_itself(host):
    from proxy.app import serve
    from proxy.settings import ProxySettings
    from swashplate.errors import ConfigurationError

    identity = {f"PROXY_{name}": "x" for name in ("DOMAIN_ID", "CHANNEL_ID", "CLIENT_ID", "CLIENT_KEY")}
    with pytest.raises(ConfigurationError, match="refusing"):
        await serve(ProxySettings.load(identity | {"PROXY_HTTP_HOST": host}), asyncio.Event())
