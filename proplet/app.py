"""The proplet's process: every part made, opened in order, and closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proplet.agent import Agent, new_instance, offline_will
from proplet.container import memory_limit
from proplet.legacy.agent import LegacyAgent
from proplet.legacy.fetch import LegacyFetcher
from proplet.legacy.results import Shelf
from proplet.monitoring.counters import Counters
from proplet.monitoring.monitor import Monitor
from proplet.policy.current import CurrentPolicy
from proplet.policy.file import load
from proplet.policy.policy import Policy
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
from swashplate.service import Tasks, stable_client_id, state_folder
from swashplate.topics import Topics

log = logging.get("proplet")

DESCRIPTORS, DESCRIPTORS_PER_SLOT = 1024, 8
"""Each slot has a process, a connection to it, and what is being read and written for it."""

AGENT_BYTES, WORKER_BYTES = 64 << 20, 16 << 20
"""Of memory: the agent with the zygote, and a worker beside its guest."""

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
async def running(
    settings: PropletSettings, make_bus: BusFactory, read_again: asyncio.Event | None = None
) -> AsyncIterator[Proplet]:
    """A proplet from the first subscription to the goodbye. ``read_again`` is set when the policy is to be looked at.

    Raises ``ConfigurationError``.
    """
    topics = Topics(settings.domain_id, settings.channel_id)
    proplet_id, instance = settings.client_id, new_instance()
    will = offline_will(topics, proplet_id, instance)
    async with AsyncExitStack() as stack:
        policy = await stack.enter_async_context(_current_policy(settings, read_again or asyncio.Event()))
        state = stack.enter_context(state_folder(settings.state_dir))
        folders = TaskFolders(choose_root(settings.task_dir, state, proplet_id, settings.task_bytes()))
        stack.callback(folders.close)
        http = await stack.enter_async_context(HttpClient())
        journal = await stack.enter_async_context(Journal(state / "journal.db"))
        pool = await stack.enter_async_context(_pool(settings, policy.now, state, folders))
        binaries = Binaries(state / "binaries", state / "modules", settings.cache_bytes)
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
        agent = Agent(
            settings,
            bus,
            topics,
            instance,
            site,
            policy,
            attempts,
            outbox,
            deliveries,
            uploads,
            counters,
            await _ready(pool, settings.slots, int(policy.now.ceilings["memory_bytes"])),
        )
        shared_fetcher, shelf = LegacyFetcher(bus, topics, binaries), Shelf(state / "legacy")
        legacy = LegacyAgent(settings, bus, topics, site, shelf, shared_fetcher, binaries, runner, http, counters)
        agent.on_announce = legacy.presence.retire
        legacy.on_stage = progress.changed
        if settings.monitoring:
            monitor = _monitor(settings, bus, topics, pool, attempts, legacy)
            progress.on_stay, attempts.on_outcome, legacy.on_outcome = monitor.follow, monitor.finish, monitor.finish
            monitor.open()
            stack.push_async_callback(monitor.close)
        policy.on_change = [agent.describe_again, lambda: pool.compilations.bind(_bounds(settings, policy.now))]
        await fetcher.open()
        await agent.open()
        await legacy.open()
        await stack.enter_async_context(bus)
        stack.push_async_callback(fetcher.close)
        stack.push_async_callback(shared_fetcher.close)
        stack.push_async_callback(legacy.close)
        stack.push_async_callback(agent.close)
        log.info("proplet started", proplet_id=proplet_id, slots=settings.slots, tasks_below=str(folders.root))
        yield Proplet(
            agent, legacy, pool, fetcher, cache, runner, attempts, counters, bus, settings.slots, state / "modules"
        )


@asynccontextmanager
async def _current_policy(settings: PropletSettings, read_again: asyncio.Event) -> AsyncIterator[CurrentPolicy]:
    limits, own = settings.limits(), settings.folders()
    policy = CurrentPolicy(settings.policy, lambda: load(settings.policy, limits, settings.isolation, os.environ, own))
    following = Tasks(log)
    following.start(policy.follow(read_again), "follow the policy")
    try:
        yield policy
    finally:
        await following.close()


def _bounds(settings: PropletSettings, policy: Policy) -> Bounds:
    return Bounds(
        memory=int(policy.ceilings["memory_bytes"]),
        table_elements=int(policy.ceilings["table_elements"]),
        cpu_s=math.ceil(settings.compile_cpu),
        data_bytes=settings.compile_memory,
        cache_bytes=settings.module_cache_bytes,
    )


def _pool(settings: PropletSettings, policy: Policy, state: Path, folders: TaskFolders) -> WorkerPool:
    modules, empty, bounds = state / "modules", state / "empty", _bounds(settings, policy)
    pool = WorkerPool(settings.slots, modules, empty, folders.root, bounds, settings.compile_wall)
    folders.on_remade = pool.renew
    return pool


async def _ready(pool: WorkerPool, slots: int, memory: int) -> list[str]:
    """What confines guests, as ``WorkerPool.ready``; and say once what the machine lacks. ``memory`` is the most that a task
    may have, in bytes.
    """
    confinement = await pool.ready()
    if missing := {"seccomp", "landlock"}.difference(confinement):
        log.warning(
            "the kernel does not confine the processes of guests; the runtime alone stands between them and this machine",
            missing=sorted(missing),
        )
    there, wanted = memory_limit(), AGENT_BYTES + slots * (memory + WORKER_BYTES)
    if there is not None and there < wanted:
        log.warning(
            "tasks may use more memory than the container has; the kernel then ends a guest, or the proplet",
            bytes=there,
            wanted=wanted,
            slots=slots,
            memory_of_a_task=memory,
            hint="give the container more memory, or lower PROPLET_SLOTS or PROPLET_MEMORY_LIMIT",
        )
    return confinement


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
    read_again = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, read_again.set)
    async with contextlib.AsyncExitStack() as stack:
        proplet = await stack.enter_async_context(running(settings, mqtt_bus(settings), read_again))
        if settings.metrics_port > 0:
            from proplet.monitoring import metrics  # noqa: PLC0415  # it needs this module

            await stack.enter_async_context(metrics.serving(settings, proplet))
        await stop.wait()
        log.info("stopping", running_tasks=proplet.running)
