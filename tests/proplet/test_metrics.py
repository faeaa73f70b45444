"""The port of /health and /metrics, and what they say."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from proplet.monitoring import metrics
from proplet.monitoring.counters import MOST_CODES, Counters
from tests.proplet.conftest import PATIENCE
from tests.support.ports import free_port


async def test_proplets_that_start_together_each_get_a_port(world, proplet):
    settings = world.settings(PROPLET_METRICS_PORT=str(free_port()))
    async with AsyncExitStack() as stack:
        served = [stack.enter_async_context(metrics.serving(settings, proplet)) for _ in range(5)]
        taken = await asyncio.gather(*served)
    assert len(set(taken)) == 5
    assert min(taken) == settings.metrics_port


async def scraped(port: int) -> dict[str, float]:
    """Every sample by its name and the values of its labels."""
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    samples = [each for family in families for each in family.samples]
    return {
        " ".join([each.name, *map(each.labels.get, sorted(each.labels, reverse=True))]): each.value for each in samples
    }


async def test_what_a_proplet_has_done_is_told(world, guests):
    settings = world.settings(PROPLET_METRICS_PORT=str(free_port()))
    async with world.proplet(PROPLET_QUEUE="0") as proplet, metrics.serving(settings, proplet) as port:
        for _ in range(3):
            await world.manager.outcome(world.start(guests["add"], name="add", inputs=["1", "1"]))
        await world.manager.outcome(world.start(guests["prints"]("x" * 100), limits={"output_bytes": 10}))
        endless = world.start(guests["loops"])
        await world.manager.start(endless)
        async with asyncio.timeout(PATIENCE):
            while proplet.pool.compilations.count < 3 or not proplet.pool.running:
                await asyncio.sleep(0.01)
        refused = world.start(guests["add"], name="add")
        await world.manager.start(refused)
        await world.manager.status(refused.id)
        found = await scraped(port)
        await world.manager.stop(endless.id)
        await world.manager.result(endless.id)
        then = await scraped(port)
    assert found["proplet_tasks_ended_total completed "] == 3
    assert found["proplet_tasks_ended_total failed output_limit"] == 1
    assert found["proplet_tasks_ended_total denied no_slot"] == 1
    assert found["proplet_limit_breaches_total output_limit"] == 1
    assert found["proplet_limit_breaches_total memory_limit"] == 0
    assert (found["proplet_tasks_completed_total"], found["proplet_tasks_failed_total"]) == (3, 1)
    assert (found["proplet_tasks_running"], found["proplet_tasks_queued"], found["proplet_slots"]) == (1, 0, 1)
    assert (found["proplet_module_cache_misses_total"], found["proplet_module_cache_hits_total"]) == (3, 2)
    assert found["proplet_compilations_total"] == 3
    assert 0 < found["proplet_compile_seconds_total"] < 20
    assert found["proplet_module_cache_bytes"] > 1000
    assert found["proplet_workers_forked_total"] > found["proplet_workers_recycled_total"] >= 1
    assert found["proplet_memory_rss_bytes"] > 30 << 20
    assert then["proplet_tasks_running"] == 0
    assert then["proplet_tasks_ended_total stopped stopped"] == 1


def test_the_codes_of_a_peer_do_not_grow_without_bound():
    counters = Counters()
    for number in range(1000):
        counters.ended(f"made up {number}")
    assert len(counters.ends) <= MOST_CODES + 1
    assert counters.of("failed") == 1000
