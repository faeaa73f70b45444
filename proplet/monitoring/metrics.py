"""``/health`` and ``/metrics`` of a proplet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from proplet.app import Proplet
from proplet.monitoring.collector import PropletCollector
from proplet.settings import PropletSettings
from swashplate import ports
from swashplate.access import Access
from swashplate.errors import ConfigurationError
from swashplate.http import HttpService, must_be_connected

PORTS_TRIED = 100


@asynccontextmanager
async def serving(settings: PropletSettings, proplet: Proplet) -> AsyncIterator[int]:
    """Serve on the first free port from the configured one; several proplets share a machine. Yields the port."""
    access = settings.access(settings.http_host)
    first = settings.metrics_port
    async with AsyncExitStack() as stack:
        for port in range(first, min(first + PORTS_TRIED, 65536)):
            if ports.is_free(port, settings.http_host):
                try:
                    await stack.enter_async_context(_service(proplet, access).serving(settings.http_host, port))
                except ConfigurationError as error:  # another proplet took it since
                    if error.code != "port_taken":
                        raise
                else:
                    break
        else:
            raise ConfigurationError(f"no port from {first} on is free", hint="set PROPLET_METRICS_PORT, 0 for none")
        yield port


def _service(proplet: Proplet, access: Access) -> HttpService:
    service = HttpService(
        "proplet",
        [],
        checks={"mqtt": must_be_connected(lambda: proplet.bus.trouble)},
        health=lambda: {"status": "ok", "running_tasks": proplet.running},
        access=access,
    )
    service.registry.register(PropletCollector(proplet))
    return service
