"""The identity service's process: four ports over one store."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from provision.brokers import Broker, Place
from provision.identity.channels import ChannelsApi
from provision.identity.clients import ClientsApi
from provision.identity.domains import DomainsApi
from provision.identity.faults import Faults
from provision.identity.publisher import Publisher
from provision.identity.settings import DEFAULT_PASSWORD, IdentitySettings
from provision.identity.store import Store
from provision.identity.tokens import Tokens
from provision.identity.users import UsersApi
from swashplate.errors import ConfigurationError
from swashplate.http import HttpService
from swashplate.settings import LOOPBACK


def refuse_open(settings: IdentitySettings, faults: Faults) -> None:
    """What is harmless on one machine and not beyond it."""
    if settings.http_host in LOOPBACK:
        return
    if faults:
        raise ConfigurationError(f"refusing to make faults on {settings.http_host}", hint="unset IDENTITY_FAULTS")
    if settings.admin_password == DEFAULT_PASSWORD and not settings.http_insecure:
        raise ConfigurationError(
            f"refusing to serve on {settings.http_host} with the password that everybody knows",
            hint="set IDENTITY_ADMIN_PASSWORD, or IDENTITY_HTTP_INSECURE=true when the network in front is trusted",
        )


async def serve(settings: IdentitySettings, stop: asyncio.Event) -> None:
    faults = Faults.parse(settings.faults)
    refuse_open(settings, faults)
    pid_file = settings.broker_pid_file and settings.broker_pid_file.absolute()
    place = Place(settings.broker_dir.absolute(), settings.mqtt_host, settings.mqtt_port, pid_file)
    publisher = Publisher(Broker(settings.broker, place, settings.broker_log), legacy=settings.legacy)
    store = Store(settings.state_dir, publisher.publish)
    await store.publish()
    tokens = Tokens(settings.token_ttl, time.time)
    users = UsersApi(tokens, settings.admin_user, settings.admin_password)
    tables = [
        ("users", settings.users_port, users.routes()),
        ("domains", settings.domains_port, DomainsApi(store).routes(tokens)),
        ("channels", settings.channels_port, ChannelsApi(store).routes(tokens)),
        ("clients", settings.clients_port, ClientsApi(store).routes(tokens)),
    ]
    async with AsyncExitStack() as stack:
        for name, port, routes in tables:
            http = HttpService(f"identity_{name}", routes, checks={"broker": publisher.check}, body_limit=1 << 20)
            if faults:
                http.app.middlewares.insert(0, faults.middleware)
            await stack.enter_async_context(http.serving(settings.http_host, port))
        await stop.wait()
