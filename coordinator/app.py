"""The coordinator's process: its parts put together, its HTTP, and what it hears over MQTT."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from coordinator.announcer import Announcer
from coordinator.api import CoordinatorApi
from coordinator.bases import Bases
from coordinator.completion import Completion
from coordinator.launching import Launcher
from coordinator.legacy import LegacyParticipants
from coordinator.live import LiveRounds
from coordinator.peers import AggregatorPeer, ManagerPeer, RegistryPeer
from coordinator.rounds import Rounds
from coordinator.settings import CoordinatorSettings
from coordinator.store import FILE, RoundStore
from coordinator.tokens import Tokens
from swashplate import logging, service
from swashplate.bus import Bus, Received
from swashplate.client import HttpClient
from swashplate.errors import InvalidRequestError
from swashplate.http import HttpService, must_be_connected
from swashplate.messages import RoundTask
from swashplate.topics import Topics

log = logging.get("coordinator")


@asynccontextmanager
async def coordinating(
    settings: CoordinatorSettings,
    bus: Bus,
    open_bare: Callable[[], Bus],
    *,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Rounds]:
    """The coordinator over ``settings.state_dir`` and a bus that is not entered yet, until the context ends."""
    folder: Path = settings.state_dir
    topics = Topics(settings.domain_id, settings.channel_id)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpClient(tokens=settings.tokens()))
        store = await stack.enter_async_context(RoundStore(folder, settings.database_or(folder / FILE)))
        registry = RegistryPeer(http, settings.model_registry_url)
        aggregator = AggregatorPeer(http, settings.aggregator_url)
        manager = ManagerPeer(http, settings.manager_url)
        tokens = Tokens.load(folder)
        announcer = Announcer(bus, topics, open_bare)
        stack.push_async_callback(announcer.close)
        tasks = service.Tasks(log)
        live = LiveRounds(store, tasks, clock)
        launcher = Launcher(manager, tokens, live, tasks, clock)
        completion = Completion(store, live, aggregator, registry, manager, announcer, tasks)
        live.hold, live.aggregate = Bases(registry, live, tasks).hold, completion.start
        rounds = Rounds(store, live, launcher, completion, registry, tokens, LegacyParticipants(manager), clock=clock)
        await rounds.load()
        await bus.subscribe(topics.every_round_task, lambda message: _task_ended(rounds, message))
        await stack.enter_async_context(bus)
        stack.push_async_callback(tasks.close)
        stack.callback(live.close)
        await rounds.resume()
        api = HttpService(
            "coordinator",
            CoordinatorApi(rounds).routes(),
            checks={"broker": must_be_connected(lambda: bus.trouble), "database": store.check},
            access=settings.access(settings.http_host),
        )
        await stack.enter_async_context(
            api.serving(settings.http_host, settings.port, also=settings.extra_ports, setting=settings.names("port")[0])
        )
        yield rounds


async def _task_ended(rounds: Rounds, message: Received) -> None:
    """The topic, which the broker's access list guards, must say the same as the payload."""
    ended = RoundTask.decode(message.payload)
    *_, round_id, _, proplet_id = message.topic.split("/")
    if (round_id, proplet_id) != (ended.round_id, ended.proplet_id):
        raise InvalidRequestError(f"{message.topic} carries news of {ended.round_id}/{ended.proplet_id}")
    await rounds.task_ended(ended)


async def serve(settings: CoordinatorSettings, stop: asyncio.Event) -> None:
    settings.access(settings.http_host)
    with service.state_folder(settings.state_dir) as folder:
        client_id = service.stable_client_id(folder, settings.client_id)
        bus = settings.bus(client_id, clean_session=False)
        async with coordinating(settings, bus, lambda: settings.bus(f"{client_id}-bare", bare=True)):
            await stop.wait()
