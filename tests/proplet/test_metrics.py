"""The port of /health and /metrics."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from proplet.monitoring import metrics
from tests.support.ports import free_port


async def test_proplets_that_start_together_each_get_a_port(world, proplet):
    settings = world.settings(PROPLET_METRICS_PORT=str(free_port()))
    async with AsyncExitStack() as stack:
        served = [stack.enter_async_context(metrics.serving(settings, proplet)) for _ in range(5)]
        taken = await asyncio.gather(*served)
    assert len(set(taken)) == 5
    assert min(taken) == settings.metrics_port
