"""A coordinator that knows one round."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.coordinator.conftest import World


@asynccontextmanager
async def coordinating(session: aiohttp.ClientSession, folder: Path):
    """A coordinator with everything around it, which knows the round ``r-1``; it is over."""
    world = World(folder)
    world.session = session
    await world.start()
    try:
        assert (await world.configure(timeout_s=0.1))[0] == 201
        await world.over()
        yield world.url("coordinator")
    finally:
        await world.stop()
