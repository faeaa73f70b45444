"""The old chunk protocol at the proxy."""

from __future__ import annotations

import asyncio
import base64
import json

import structlog

from swashplate.bus import MemoryBus
from tests.proxy.test_proxy import BINARY, CHUNK, COUNT, TOPICS, World


class Legacy:
    """Asks by name and collects what everybody gets."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.chunks: list[dict] = []
        self.news = asyncio.Condition()

    async def collect(self, received) -> None:
        self.chunks.append(json.loads(received.payload))
        async with self.news:
            self.news.notify_all()

    async def ask(self, image: str) -> None:
        await self.bus.publish(TOPICS.shared_blob_request, json.dumps({"app_name": image}).encode(), qos=2)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: len(self.chunks) >= count)


async def listening(world: World, **hooks) -> Legacy:
    peer = Legacy(await world._stack.enter_async_context(MemoryBus(world.broker, client_id="legacy")))
    await peer.bus.subscribe(TOPICS.shared_chunks, peer.collect)
    return peer


async def test_everybody_who_asks_before_the_first_chunk_shares_one_pass(tmp_path, registry):
    world = World(tmp_path)
    await registry.push("app", "v1", BINARY)
    image = f"{registry.host}/app:v1"
    async with world.proxy(PLAIN_HTTP=registry.host):
        peer = await listening(world)
        for _ in range(3):
            await peer.ask(image)
        await peer.until(COUNT)
        await peer.ask(f"{registry.host}/nothing:v1")
        assert [chunk["chunk_idx"] for chunk in peer.chunks] == list(range(COUNT))
        assert {(chunk["app_name"], chunk["total_chunks"]) for chunk in peer.chunks} == {(image, COUNT)}
        pieces = [base64.b64decode(chunk["data"]) for chunk in peer.chunks]
        assert b"".join(pieces) == BINARY
        assert max(map(len, pieces)) == CHUNK
    await world.close()


async def test_who_asks_later_gets_every_chunk_once_more(tmp_path, registry):
    world = World(tmp_path)
    await registry.push("app", "v1", BINARY)
    image = f"{registry.host}/app:v1"
    async with world.proxy(PLAIN_HTTP=registry.host):
        peer = await listening(world)
        await peer.ask(image)
        await peer.until(3)
        await peer.ask(image)
        await peer.until(2 * COUNT)
        assert [chunk["chunk_idx"] for chunk in peer.chunks[COUNT:]] == list(range(COUNT))
    await world.close()


async def test_what_cannot_be_had_is_logged_and_asked_for_again_later(tmp_path, registry):
    world = World(tmp_path)
    image = f"{registry.host}/app:v1"
    async with world.proxy(PLAIN_HTTP=registry.host):
        peer = await listening(world)
        with structlog.testing.capture_logs() as lines:
            await peer.ask(image)
            async with asyncio.timeout(10):
                while not any(line["event"] == "failed to fetch container" for line in lines):
                    await asyncio.sleep(0.005)
        [failed] = [line for line in lines if line["event"] == "failed to fetch container"]
        assert (failed["container"], failed["log_level"]) == (image, "error")
        await registry.push("app", "v1", BINARY)
        await peer.ask(image)
        await peer.until(COUNT)
    await world.close()
