"""The proplet's process: every part made, opened in order, and closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proplet.agent import Agent, new_instance, offline_will
from proplet.legacy.agent import LegacyAgent
from proplet.legacy.fetch import LegacyFetcher
from proplet.legacy.results import Shelf
from proplet.monitoring.counters import Counters
from proplet.monitoring.monitor import Monitor
from proplet.policy.file import load
from proplet.runtime.pool import WorkerPool
from proplet.runtime.runner import Runner
from proplet.runtime.task_folder import TaskFolders, choose_root
from proplet.sandbox.bounds import Bounds, soft_limit
from proplet.settings import PropletSettings
from proplet.site import Site
from proplet.supply.binaries import Binaries
from proplet.supply.fetch import Fetcher
from proplet.supply.input_cache import InputCache
from proplet.supply.inputs import Inputs
from proplet.work.attempts import Attempts
from proplet.work.deliveries import Deliveries
from proplet.work.journal import Journal
from proplet.work.outbox import Outbox
from proplet.work.outgoing import Ref
from proplet.work.progress import Progress
from proplet.work.result_files import ResultFiles
from proplet.work.task_logs import TaskLogs
from proplet.work.uploads import Uploads
from swashplate import logging
from swashplate.bus import Bus, Will
from swashplate.client import HttpClient
from swashplate.service import stable_client_id, state_folder
from swashplate.topics import Topics

log = logging.get("proplet")

DESCRIPTORS, DESCRIPTORS_PER_SLOT = 1024, 8
"""Each slot has a process, a connection to it, and what is being read and written for it."""

BusFactory = Callable[[str, Will], Bus]
"""``(MQTT client id, last will)`` → the bus, not yet entered."""


@dataclass(frozen=True)
class Proplet:
    """A running proplet."""

    agent: Agent
    legacy: LegacyAgent
    pool: WorkerPool
    fetcher: Fetcher
    inputs: InputCache
    runner: Runner
    attempts: Attempts
    counters: Counters
    bus: Bus
    slots: int
    modules: Path
    """The folder of compiled modules."""

    @property
    def running(self) -> int:
        """How many tasks run."""
        return self.agent.running + self.legacy.running

    @property
    def queued(self) -> int:
        return self.attempts.queued


def mqtt_bus(settings: PropletSettings) -> BusFactory:
    return lambda client_id, will: settings.bus(client_id, will=will)


@asynccontextmanager
async def running(settings: PropletSettings, make_bus: BusFactory) -> AsyncIterator[Proplet]:
    """A proplet from the first subscription to the goodbye. Raises ``ConfigurationError``."""
    topics = Topics(settings.domain_id, settings.channel_id)
    proplet_id, instance = settings.client_id, new_instance()
    will = offline_will(topics, proplet_id, instance)
    policy = load(settings.policy, settings.limits(), settings.isolation, os.environ, settings.folders())
    async with AsyncExitStack() as stack:
        state = stack.enter_context(state_folder(settings.state_dir))
        folders = TaskFolders(choose_root(settings.task_dir, state, proplet_id, settings.task_bytes()))
        stack.callback(folders.close)
        http = await stack.enter_async_context(HttpClient())
        journal = await stack.enter_async_context(Journal(state / "journal.db"))
        modules = state / "modules"
        bounds = Bounds(
            memory=int(policy.ceilings["memory_bytes"]),
            table_elements=int(policy.ceilings["table_elements"]),
            cpu_s=math.ceil(settings.compile_cpu),
            data_bytes=settings.compile_memory,
            cache_bytes=settings.module_cache_bytes,
        )
        pool = await stack.enter_async_context(
            WorkerPool(settings.slots, modules, state / "empty", folders.root, bounds, settings.compile_wall)
        )
        binaries = Binaries(state / "binaries", modules, settings.cache_bytes)
        bus = make_bus(stable_client_id(state, proplet_id), will)
        site = Site(settings, http, binaries.store.digests)
        fetcher = Fetcher(bus, topics, proplet_id, binaries, patience_s=settings.fetch_timeout)
        cache = InputCache(http, folders.root / "cache", settings.input_cache_bytes)
        result_files, counters = ResultFiles(state / "results"), Counters()
        runner = Runner(
            proplet_id,
            binaries,
            fetcher,
            Inputs(cache, proplet_id, fetcher, binaries, settings.data_store_url, site.model_registry_url),
            pool,
            folders,
            policy,
            site.coordinator_url,
            result_files,
        )
        outbox = Outbox(journal, bus, topics, proplet_id)
        deliveries = Deliveries(journal, outbox, proplet_id, http, site.coordinator_url)
        uploads = Uploads(journal, outbox, proplet_id, http, result_files, site.manager_url)
        attempts = Attempts(
            proplet_id,
            settings.slots,
            settings.queue,
            journal,
            outbox,
            deliveries,
            uploads,
            TaskLogs(bus, topics, proplet_id),
            runner,
            counters,
        )
        progress = Progress(bus, topics, proplet_id, journal)
        attempts.on_stage = progress.changed
        outbox.on_denial = counters.denied
        stack.callback(progress.close)
        agent = Agent(settings, bus, topics, instance, site, attempts, outbox, deliveries, uploads, counters)
        shared_fetcher, shelf = LegacyFetcher(bus, topics, binaries), Shelf(state / "legacy")
        legacy = LegacyAgent(settings, bus, topics, site, shelf, shared_fetcher, binaries, runner, http, counters)
        agent.on_announce = legacy.presence.retire
        legacy.on_stage = progress.changed
        if settings.monitoring:
            monitor = _monitor(settings, bus, topics, pool, attempts, legacy)
            progress.on_stay = monitor.follow
            attempts.on_outcome = legacy.on_outcome = monitor.finish
            monitor.open()
            stack.push_async_callback(monitor.close)
        await fetcher.open()
        await agent.open()
        await legacy.open()
        await stack.enter_async_context(bus)
        stack.push_async_callback(fetcher.close)
        stack.push_async_callback(shared_fetcher.close)
        stack.push_async_callback(legacy.close)
        stack.push_async_callback(agent.close)
        log.info("proplet started", proplet_id=proplet_id, slots=settings.slots, tasks_below=str(folders.root))
        yield Proplet(agent, legacy, pool, fetcher, cache, runner, attempts, counters, bus, settings.slots, modules)


def _monitor(
    settings: PropletSettings, bus: Bus, topics: Topics, pool: WorkerPool, attempts: Attempts, legacy: LegacyAgent
) -> Monitor:
    def topics_of(kind: str, ref: Ref | None) -> list[str]:
        """Where those are who are to know of ``ref``, or of the proplet itself."""
        own, shared = topics.proplet(settings.client_id, kind), topics.shared_from_proplets(kind)
        if ref is not None:
            return [own if legacy.start_of(ref) is None else shared]
        return [own, shared] if legacy.presence.speaking else [own]

    return Monitor(
        bus,
        topics_of,
        settings.client_id,
        settings.namespace,
        settings.metrics_interval,
        pool.every_process,
        lambda ref: attempts.start_of(ref) or legacy.start_of(ref),
    )


def enough_descriptors(slots: int) -> None:
    """Many systems give 1024 at first, and as many more as are asked for."""
    given, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS + slots * DESCRIPTORS_PER_SLOT
    if given not in (resource.RLIM_INFINITY, max(given, wanted)):
        soft_limit(resource.RLIMIT_NOFILE, wanted)


async def serve(settings: PropletSettings, stop: asyncio.Event) -> None:
    enough_descriptors(settings.slots)
    if settings.metrics_port > 0:
        settings.access(settings.http_host)  # refuses before anything has begun
    async with contextlib.AsyncExitStack() as stack:
        proplet = await stack.enter_async_context(running(settings, mqtt_bus(settings)))
        if settings.metrics_port > 0:
            from proplet.monitoring import metrics  # noqa: PLC0415  # it needs this module

            await stack.enter_async_context(metrics.serving(settings, proplet))
        await stop.wait()
        log.info("stopping", running_tasks=proplet.running)
