"""The manager's process: its rooms wired together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from manager import store
from manager.api import Api
from manager.attempts import Attempts
from manager.dialects import Dialect, OwnTopics
from manager.images import Images
from manager.learning import Learning
from manager.legacy import LegacyProplets, SharedTopics
from manager.proplets import Proplets
from manager.settings import ManagerSettings
from manager.tasks import TaskService
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


@asynccontextmanager
async def managing(settings: ManagerSettings, folder: Path, bus: Bus, bare_bus: Bus) -> AsyncIterator[None]:
    """The manager at work, on these two connections and with its state in ``folder``, until the context ends."""
    names = Topics(settings.domain_id, settings.channel_id)
    blobs = BlobStore(folder / "blobs")
    database = Database(settings.database(folder), store.SCHEMA)
    announce = Announce(
        heartbeat_s=settings.heartbeat_s,
        urls=ProcessUrls(
            coordinator=settings.coordinator_url,
            model_registry=settings.model_registry_url,
        ),
    )
    tokens = {settings.coordinator_url: settings.coordinator_token.get_secret_value()}
    async with database, HttpClient(tokens=tokens) as client:
        proplets = Proplets(bus, database, names, announce)
        images = Images(bus, names, timeout=settings.image_timeout)
        own, shared = OwnTopics(bus, names), SharedTopics(bus, names, blobs)

        def dialect_of(proplet_id: str) -> Dialect:
            return shared if proplets.is_legacy(proplet_id) else own

        attempts = Attempts(bus, database, names, proplets, images, dialect_of)
        learning = Learning(bus, bare_bus, client, names, settings.coordinator_url)
        attempts.observers.append(learning)
        tasks = TaskService(database, proplets, attempts, blobs)
        legacy = LegacyProplets(bus, names, proplets, attempts, tasks)
        for room in (proplets, images, attempts, learning, legacy):
            await room.open()
        api = Api(tasks, proplets, attempts, blobs)
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
            await attempts.recover()
            try:
                async with http.serving(settings.http_host, settings.http_port, setting=settings.names("http_port")[0]):
                    yield
            finally:
                log.info("stopping")
                await legacy.close()
                await attempts.close()
                await learning.close()


async def serve(settings: ManagerSettings, stop: asyncio.Event) -> None:
    settings.access(settings.http_host)
    with state_folder(settings.state_dir) as folder:
        client_id = stable_client_id(folder, settings.client_id)
        bus = settings.bus(client_id, clean_session=False)
        bare_bus = settings.bus(f"{client_id}-bare", bare=True)
        async with managing(settings, folder, bus, bare_bus):
            await stop.wait()
