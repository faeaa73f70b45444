"""``/health`` and ``/metrics`` of a proplet."""

from __future__ import annotations

from proplet.app import Proplet
from proplet.monitoring.collector import PropletCollector
from swashplate.access import Access
from swashplate.http import HttpService, must_be_connected


def service_of(proplet: Proplet, access: Access) -> HttpService:
    service = HttpService(
        "proplet",
        [],
        checks={"mqtt": must_be_connected(lambda: proplet.bus.trouble)},
        health=lambda: {"status": "ok", "running_tasks": proplet.running},
        access=access,
    )
    service.registry.register(PropletCollector(proplet))
    return service
