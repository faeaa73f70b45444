"""The manager's process: its rooms wired together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from manager.api.groups import GroupApi
from manager.api.invocations import InvocationApi
from manager.api.large_results import LargeResultApi
from manager.api.logs import LogApi
from manager.api.metrics import ContractMetrics, ManagerMetrics
from manager.api.proplets import PropletApi
from manager.api.tasks import Api
from manager.attempt_files import AttemptFiles
from manager.binaries import Binaries
from manager.fleet.drains import Drains
from manager.fleet.histories import Histories
from manager.fleet.legacy import LegacyProplets, SharedTopics
from manager.fleet.proplets import Proplets
from manager.large_results import LargeResults, secret_in
from manager.latent.deployments import Deployments
from manager.latent.invocation_archive import InvocationArchive
from manager.latent.invocations import Invocations
from manager.latent.invoke_sender import InvokeSender
from manager.learning import Learning
from manager.plans.group_archive import GroupArchive
from manager.plans.groups import Groups
from manager.plans.parents import ParentResults
from manager.plans.progress import Progress
from manager.plans.scheduler import Scheduler
from manager.salvage import Salvage
from manager.settings import ManagerSettings
from manager.state import store, tables
from manager.state.ledger import Ledger
from manager.task_archive import TaskArchive
from manager.task_logs import TaskLogs
from manager.tasks import TaskService
from manager.work.attempts import TOLD_AGAIN_S
from manager.work.dialects import Dialect, OwnTopics
from manager.work.wiring import Work
from swashplate import __version__, logging
from swashplate.blobs import BlobStore
from swashplate.bus import Bus
from swashplate.client import HttpClient
from swashplate.database import Database
from swashplate.http import HttpService, must_be_connected
from swashplate.messages import Announce, ProcessUrls
from swashplate.service import stable_client_id, state_folder
from swashplate.topics import Topics

log = logging.get("manager")


class Manager:
    """Its rooms, wired together; everything but HTTP and the connections, which whoever makes one brings along."""

    def __init__(
        self,
        settings: ManagerSettings,
        bus: Bus,
        bare_bus: Bus,
        database: Database,
        blobs: BlobStore,
        client: HttpClient,
        files: AttemptFiles,
        secret: bytes,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        names = Topics(settings.domain_id, settings.channel_id)
        urls = ProcessUrls(
            coordinator=settings.coordinator_url, model_registry=settings.model_registry_url, manager=settings.url()
        )
        announce = Announce(heartbeat_s=settings.heartbeat_s, urls=urls)
        self._database = database
        self._interrupt_on_exit = settings.interrupt_on_exit
        self._clock = clock
        self.ledger = Ledger(database)
        self.proplets = Proplets(bus, database, names, announce, clock)
        self._files = files
        self.large = LargeResults(files, self.ledger, secret, settings.result_limit)
        self._results = results = ParentResults(self.ledger, blobs, self.large)
        own = OwnTopics(bus, names, results.of, self.large.token, clock)
        shared = SharedTopics(bus, names, blobs, self.ledger, self.proplets, results.of)

        def dialect_of(proplet_id: str) -> Dialect:
            return shared if self.proplets.is_legacy(proplet_id) else own

        work = Work(
            bus,
            names,
            database,
            self.ledger,
            self.proplets,
            dialect_of,
            self.large.stored,
            image_timeout_s=settings.image_timeout,
            silence_s=settings.lease,
            strategy=settings.placement,
            clock=clock,
        )
        self.load, self.dispatch, self.leases, self.attempts = work.load, work.dispatch, work.leases, work.attempts
        learning = Learning(bus, bare_bus, client, names, settings.coordinator_url, self.ledger)
        self.attempts.consequences.append(learning.owe)
        self._binaries = Binaries(database, self.ledger, blobs)
        self.tasks = TaskService(
            database, self.ledger, self.proplets, self.load, self.attempts, self._binaries, clock=clock
        )
        self.archive = TaskArchive(database, self.ledger)
        work.followers.join(learning, self.archive)
        deployments = Deployments(self.proplets, self.load, clock)
        calls = InvokeSender(bus, self.ledger, self.proplets, dialect_of)
        called_before = InvocationArchive(database, self.ledger, files)
        self.invocations = Invocations(
            bus,
            names,
            self.ledger,
            self.proplets,
            deployments,
            calls,
            called_before,
            work.acks,
            self.dispatch.waiting_for,
            self.large.stored,
            clock=clock,
        )
        self.drains = Drains(self.ledger, self.proplets, self.load, self.attempts, deployments, dialect_of)
        histories = Histories(bus, names, database, self.ledger, self.proplets, clock=clock)
        self.attempts.on_ready = self.invocations.ready
        logs = TaskLogs(bus, names, self.ledger, self.proplets, self.archive, files, settings.log_bytes)
        self.attempts.on_gone += [self.invocations.gone, logs.gone]
        self.invocations.on_idle = self.drains.go_on
        legacy = LegacyProplets(
            bus,
            names,
            self.proplets,
            self.attempts,
            self.invocations,
            histories,
            self.ledger,
            self.leases,
            slots=settings.legacy_slots,
            clock=clock,
        )
        self.progress = Progress(self.ledger, self.tasks, self.attempts, clock=clock)
        self.groups = Groups(database, self.ledger, self.tasks, self.progress, clock=clock)
        listed = GroupArchive(database, self.progress)
        self.progress.on_ended.append(lambda _group, tasks: results.forget(tasks))
        self.scheduler = Scheduler(database, self.ledger, self.tasks, clock=clock)
        Salvage(self.ledger, self.tasks, self.attempts, self.invocations, self.progress, clock=clock)
        self.tasks.on_erased += [logs.erased, lambda task: files.remove(task.id)]
        api = Api(self.tasks, self.archive, self.attempts, self.dispatch, blobs, self.large)
        apis = (
            api,
            LargeResultApi(self.large),
            LogApi(logs),
            GroupApi(self.groups, listed, api.shown),
            InvocationApi(self.invocations, called_before, self.large),
            PropletApi(self.proplets, self.load, self.drains, histories),
        )
        self.routes = [route for api in (*apis, learning) for route in api.routes()]
        self.metrics = ManagerMetrics(
            self.ledger, self.proplets, self.load, self.dispatch, self.attempts, self.invocations
        )
        self._opened = (
            self.ledger,
            self.proplets,
            *work.opened,
            self.invocations,
            calls,
            self.drains,
            histories,
            logs,
            learning,
            legacy,
            self.scheduler,
        )
        self._closed = (
            self.scheduler,
            legacy,
            *work.closed,
            self.invocations,
            calls,
            called_before,
            self.proplets,
            learning,
            histories,
            logs,
            self.ledger,
        )

    async def open(self) -> None:
        """Load what has not ended, declare the subscriptions, take everything up again; call before the buses connect."""
        for room in self._opened:
            await room.open()
        since = self._clock() - TOLD_AGAIN_S
        self.attempts.recover(await self._database.run(lambda db: store.learning_ended_since(db, since)))
        self.invocations.recover()
        self.drains.recover()
        self.progress.recover()
        self.scheduler.recover()

    async def collect(self) -> None:
        """Remove files that nobody needs; call when it is open and before anybody can upload one."""
        await self._binaries.collect(self._results.needed())
        there = await asyncio.to_thread(self._files.tasks)
        existing = await self._database.run(lambda db: store.existing_tasks(db, there))
        await asyncio.to_thread(self._files.collect, there, existing)

    async def close(self) -> None:
        if self._interrupt_on_exit:
            await self.attempts.interrupt_everything()
        for room in self._closed:
            await room.close()


@asynccontextmanager
async def managing(
    settings: ManagerSettings, folder: Path, bus: Bus, bare_bus: Bus, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[Manager]:
    """The manager at work, on these two connections and with its state in ``folder``, until the context ends."""
    database = Database(settings.database(folder), tables.SCHEMA)
    tokens = {settings.coordinator_url: settings.coordinator_token.get_secret_value()}
    async with database, HttpClient(tokens=tokens) as client:
        manager = Manager(
            settings,
            bus,
            bare_bus,
            database,
            BlobStore(folder / "blobs"),
            client,
            AttemptFiles(folder / "attempts"),
            await asyncio.to_thread(secret_in, folder),
            clock=clock,
        )
        http = HttpService(
            "manager",
            manager.routes,
            checks={"broker": must_be_connected(lambda: bus.trouble), "database": manager.ledger.health},
            health=lambda: {
                "status": "pass",
                "version": __version__,
                "commit": "unknown",
                "build_time": "unknown",
                "description": "manager service",
                "instance_id": settings.client_id,
            },
            access=settings.access(settings.http_host),
        )
        http.registry.register(manager.metrics)
        http.registry.register(ContractMetrics(http.registry))
        await manager.open()
        await manager.collect()
        async with bus, bare_bus:
            try:
                async with http.serving(settings.http_host, settings.http_port, setting=settings.names("http_port")[0]):
                    yield manager
            finally:
                log.info("stopping")
                await manager.close()


async def serve(settings: ManagerSettings, stop: asyncio.Event) -> None:
    settings.access(settings.http_host)
    with state_folder(settings.state_dir) as folder:
        client_id = stable_client_id(folder, settings.client_id)
        bus = settings.bus(client_id, clean_session=False)
        bare_bus = settings.bus(f"{client_id}-bare", bare=True)
        async with managing(settings, folder, bus, bare_bus):
            await stop.wait()
