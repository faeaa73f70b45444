"""``/health`` and ``/metrics`` of a proplet."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proplet.app import Proplet
from proplet.monitoring import usage
from proplet.settings import PropletSettings
from swashplate import ports
from swashplate.access import Access
from swashplate.errors import ConfigurationError
from swashplate.http import HttpService, must_be_connected

PORTS_TRIED = 100


class PropletCollector(Collector):
    """Reads the proplet's counters and the kernel's when asked."""

    def __init__(self, proplet: Proplet) -> None:
        self._proplet = proplet
        self._before = (time.monotonic(), _cpu_seconds())

    def collect(self) -> Iterator[Metric]:
        counters, fetcher = self._proplet.counters, self._proplet.fetcher
        counts: list[tuple[str, int, str]] = [
            ("proplet_tasks_started", counters.started, "Attempts accepted"),
            ("proplet_tasks_completed", counters.completed, "Attempts that succeeded"),
            ("proplet_tasks_failed", counters.failed, "Attempts that failed"),
            ("proplet_mqtt_reconnects", max(0, counters.connects - 1), "Connections after the first"),
            ("proplet_wasm_fetch_bytes", fetcher.fetched_bytes, "Bytes of binaries fetched and verified"),
            ("proplet_wasm_chunks_ignored", fetcher.ignored_chunks, "Chunks of a wrong index or size"),
        ]
        for name, count, text in counts:
            yield CounterMetricFamily(name, text, value=count)
        user, system = _cpu_seconds()
        gauges: list[tuple[str, float | None, str]] = [
            ("proplet_tasks_running", self._proplet.running, "Attempts that run or wait"),
            ("proplet_cpu_usage_ratio", self._usage(user + system), "Share of the machine's processors, 0 to 1"),
            ("proplet_cpu_user_seconds", user, "Processor time of agent and ended workers, outside the kernel"),
            ("proplet_cpu_system_seconds", system, "Processor time of agent and ended workers, inside the kernel"),
            ("proplet_memory_rss_bytes", _resident_bytes(), "Resident memory of the agent"),
            (
                "proplet_memory_container_usage_bytes",
                usage.cgroup_bytes("memory.current"),
                "Memory used by the container",
            ),
            ("proplet_memory_container_limit_bytes", usage.cgroup_bytes("memory.max"), "Memory limit of the container"),
        ]
        for name, value, text in gauges:
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)

    def _usage(self, used: float) -> float:
        """Since the previous look."""
        then, (user, system) = self._before
        now = time.monotonic()
        self._before = (now, _cpu_seconds())
        elapsed = max(now - then, 0.001) * (os.cpu_count() or 1)
        return max(0.0, used - user - system) / elapsed


def _cpu_seconds() -> tuple[float, float]:
    spent = os.times()
    return spent.user + spent.children_user, spent.system + spent.children_system


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
