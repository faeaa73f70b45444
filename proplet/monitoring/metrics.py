"""The port of ``/health`` and ``/metrics``. What serves them is loaded when somebody asks: most proplets nobody ever does."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proplet.app import Proplet
from proplet.settings import PropletSettings
from swashplate import logging, ports
from swashplate.access import Access
from swashplate.errors import ConfigurationError
from swashplate.service import Tasks

log = logging.get("http")

PORTS_TRIED = 100


@asynccontextmanager
async def serving(settings: PropletSettings, proplet: Proplet) -> AsyncIterator[int]:
    """Serve on the first free port from the configured one; several proplets share a machine. Yields the port."""
    access = settings.access(settings.http_host)
    background = Tasks(log)
    with _listening(settings.http_host, settings.metrics_port) as listening:
        port = int(listening.getsockname()[1])
        log.info("serving HTTP", address=f"http://{settings.http_host}:{port}")
        background.start(_serve(listening, proplet, access), "serve metrics")
        try:
            yield port
        finally:
            await background.close()


def _listening(host: str, first: int) -> socket.socket:
    """Raises ``ConfigurationError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        try:
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ports.taken(port, error, service="proplet", setting="PROPLET_METRICS_PORT") from error
    raise ConfigurationError(f"no port from {first} on is free", hint="set PROPLET_METRICS_PORT, 0 for none")


async def _serve(listening: socket.socket, proplet: Proplet, access: Access) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    listening.setblocking(False)
    loop.add_reader(listening, asked.set)
    try:
        await asked.wait()
    finally:
        loop.remove_reader(listening)
    from proplet.monitoring.service import service_of  # noqa: PLC0415  # 10 MiB

    async with service_of(proplet, access).serving_on(listening):
        await asyncio.Event().wait()
