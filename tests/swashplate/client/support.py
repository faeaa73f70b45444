"""A proplet that the manager knows, and a network that loses an answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from swashplate.client import Client
from tests.manager.conftest import FakeProplet
from tests.support.ports import free_port


@asynccontextmanager
async def proplet(world, name: str = "p1"):
    made = FakeProplet(world.broker, name)
    await made.listen()
    async with made.bus:
        async with Client(world.url) as client, asyncio.timeout(10):
            while not [p for p in (await client.proplets.list(status="active")).items if p.id == name]:
                await asyncio.sleep(0.005)
        yield made


@asynccontextmanager
async def one_lost_answer(target: str):
    """A URL behind which the manager gets everything; its first answer to a POST never arrives."""
    host, _, port = target.removeprefix("http://").partition(":")
    lost: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection(host, int(port))
        posted = False

        async def forth() -> None:
            nonlocal posted
            while data := await reader.read(1 << 16):
                posted = posted or data.startswith(b"POST")
                to.write(data)

        async def back() -> None:
            while data := await there.read(1 << 16):
                if posted and not lost:
                    lost.append(data)
                    return
                writer.write(data)

        done = [asyncio.ensure_future(forth()), asyncio.ensure_future(back())]
        await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.cancel()
        writer.close()
        to.close()

    server = await asyncio.start_server(relay, "127.0.0.1", free_port())
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lost
