"""The manager's process: its rooms wired together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from manager import store
from manager.api import Api
from manager.attempts import TOLD_AGAIN_S, Attempts
from manager.dialects import Dialect, OwnTopics, Parents
from manager.dispatch import Dispatch
from manager.images import Images
from manager.learning import Learning
from manager.leases import Leases
from manager.ledger import Ledger
from manager.legacy import LegacyProplets, SharedTopics
from manager.load import Load
from manager.offers import Offers
from manager.proplets import Proplets
from manager.records import Task
from manager.settings import ManagerSettings
from manager.tasks import TaskService
from swashplate import __version__, logging
from swashplate.blobs import BlobStore
from swashplate.bus import Bus
from swashplate.client import HttpClient
from swashplate.database import Database, sqlite_url
from swashplate.http import HttpService, must_be_connected
from swashplate.messages import Announce, ProcessUrls
from swashplate.service import stable_client_id, state_folder
from swashplate.topics import Topics

log = logging.get("manager")


async def _no_parents(_task: Task) -> Parents:
    return Parents()


@asynccontextmanager
async def managing(settings: ManagerSettings, folder: Path, bus: Bus, bare_bus: Bus) -> AsyncIterator[None]:
    """The manager at work, on these two connections and with its state in ``folder``, until the context ends."""
    names = Topics(settings.domain_id, settings.channel_id)
    blobs = BlobStore(folder / "blobs")
    database = Database(sqlite_url(folder / "manager.db"), store.metadata, version=store.SCHEMA_VERSION)
    announce = Announce(
        heartbeat_s=settings.heartbeat_s,
        urls=ProcessUrls(
            coordinator=settings.coordinator_url,
            model_registry=settings.model_registry_url,
        ),
    )
    tokens = {settings.coordinator_url: settings.coordinator_token.get_secret_value()}
    async with database, HttpClient(tokens=tokens) as client:
        ledger = Ledger(database)
        proplets = Proplets(bus, database, names, announce)
        images = Images(bus, names, timeout=settings.image_timeout)
        own, shared = OwnTopics(bus, names, _no_parents), SharedTopics(bus, names, blobs)

        def dialect_of(proplet_id: str) -> Dialect:
            return shared if proplets.is_legacy(proplet_id) else own

        load = Load(proplets)
        offers = Offers(bus, ledger, dialect_of)
        dispatch = Dispatch(ledger, images, load, offers, strategy=settings.placement)
        leases = Leases(database, ledger, proplets, load, silence_s=settings.lease)
        attempts = Attempts(bus, names, ledger, proplets, load, dispatch, offers, leases, dialect_of)
        learning = Learning(bus, bare_bus, client, names, settings.coordinator_url)
        tasks = TaskService(database, ledger, proplets, attempts, blobs)
        attempts.observers += [learning, tasks]
        legacy = LegacyProplets(bus, names, proplets, attempts, ledger)
        for room in (ledger, proplets, images, offers, attempts, leases, learning, legacy):
            await room.open()
        api = Api(tasks, proplets, attempts, dispatch, load, blobs)
        http = HttpService(
            "manager",
            [*api.routes(), *learning.routes()],
            checks={"broker": must_be_connected(lambda: bus.trouble), "database": database.check},
            health=lambda: {
                "status": "pass",
                "version": __version__,
                "description": "manager service",
                "instance_id": settings.client_id,
            },
            access=settings.access(settings.http_host),
        )
        async with bus, bare_bus:
            since = time.time() - TOLD_AGAIN_S
            attempts.recover(await database.run(lambda db: store.ended_since(db, since)))
            try:
                async with http.serving(settings.http_host, settings.http_port, setting=settings.names("http_port")[0]):
                    yield
            finally:
                log.info("stopping")
                if settings.interrupt_on_exit:
                    await attempts.interrupt_everything()
                closing = (legacy, leases, offers, dispatch, attempts, proplets, learning, ledger)
                for each in closing:
                    await each.close()


async def serve(settings: ManagerSettings, stop: asyncio.Event) -> None:
    settings.access(settings.http_host)
    with state_folder(settings.state_dir) as folder:
        client_id = stable_client_id(folder, settings.client_id)
        bus = settings.bus(client_id, clean_session=False)
        bare_bus = settings.bus(f"{client_id}-bare", bare=True)
        async with managing(settings, folder, bus, bare_bus):
            await stop.wait()
