"""What a proplet has done and what it uses, for Prometheus. No label has a value that a task or a guest chooses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proplet.app import Proplet
from proplet.monitoring import usage


class PropletCollector(Collector):
    """Reads the proplet's counters and the kernel's when asked."""

    def __init__(self, proplet: Proplet) -> None:
        self._proplet = proplet
        used = self._used()
        self._before = time.monotonic(), used.user_s + used.system_s

    def collect(self) -> Iterator[Metric]:
        yield from self._tasks()
        for name, count, text in self._counts():
            yield CounterMetricFamily(name, text, value=count)
        for name, value, text in self._gauges():
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)

    def _tasks(self) -> Iterator[Metric]:
        counters = self._proplet.counters
        ended = CounterMetricFamily(
            "proplet_tasks_ended", "Attempts by outcome and the code of why", labels=["outcome", "code"]
        )
        for (outcome, code), count in sorted(counters.ends.items()):
            ended.add_metric([outcome, code], count)
        yield ended
        breaches = CounterMetricFamily(
            "proplet_limit_breaches", "Tasks that wanted more than they may have", labels=["code"]
        )
        for code, count in counters.breaches().items():
            breaches.add_metric([code], count)
        yield breaches

    def _counts(self) -> list[tuple[str, float, str]]:
        proplet = self._proplet
        counters, pool, fetcher = proplet.counters, proplet.pool, proplet.fetcher
        return [
            ("proplet_tasks_started", counters.started, "Attempts accepted"),
            ("proplet_tasks_completed", counters.of("completed"), "Attempts that succeeded"),
            ("proplet_tasks_failed", counters.of("failed", "stopped"), "Attempts that failed or were stopped"),
            ("proplet_mqtt_reconnects", max(0, counters.connects - 1), "Connections after the first"),
            ("proplet_wasm_fetch_bytes", fetcher.fetched_bytes, "Bytes of binaries fetched and verified"),
            ("proplet_wasm_chunks_ignored", fetcher.ignored_chunks, "Chunks of a wrong index or size"),
            ("proplet_input_fetch_bytes", proplet.inputs.fetched_bytes, "Bytes of models and datasets fetched"),
            ("proplet_compilations", pool.compilations.count, "Compilations begun"),
            ("proplet_compile_seconds", pool.compilations.seconds, "Time that compilations took"),
            ("proplet_module_cache_hits", pool.hits, "Runs whose module was compiled already"),
            ("proplet_module_cache_misses", pool.misses, "Runs whose module was not"),
            ("proplet_workers_forked", pool.forked, "Worker processes begun"),
            ("proplet_workers_recycled", pool.recycled, "Worker processes replaced after they had run something"),
            ("proplet_log_dropped_bytes", proplet.runner.log_bytes_dropped, "Bytes of stderr over their task's limit"),
        ]

    def _gauges(self) -> list[tuple[str, float | None, str]]:
        proplet, used = self._proplet, self._used()
        pool = proplet.pool
        container, limit = usage.cgroup_bytes("memory.current"), usage.cgroup_bytes("memory.max")
        return [
            ("proplet_tasks_running", pool.running, "Guests that run"),
            ("proplet_tasks_queued", proplet.queued, "Attempts that wait for inputs, a compilation or a slot"),
            ("proplet_slots", proplet.slots, "How many guests can run at once"),
            ("proplet_workers_warm", pool.warm, "Worker processes that wait for a guest"),
            ("proplet_module_cache_bytes", usage.folder_bytes(proplet.modules), "Bytes of compiled modules"),
            ("proplet_input_cache_bytes", proplet.inputs.size, "Bytes of models and datasets kept between tasks"),
            ("proplet_cpu_usage_ratio", self._ratio(used), "Share of the machine's processors, 0 to 1"),
            ("proplet_cpu_user_seconds", used.user_s, "Processor time of all its processes, outside the kernel"),
            ("proplet_cpu_system_seconds", used.system_s, "Processor time of all its processes, inside the kernel"),
            ("proplet_memory_rss_bytes", used.memory, "Memory of all its processes, what they share counted once"),
            ("proplet_memory_container_usage_bytes", container, "Memory used by the container"),
            ("proplet_memory_container_limit_bytes", limit, "Memory limit of the container"),
        ]

    def _used(self) -> usage.Total:
        return usage.of_proplet(self._proplet.pool.every_process())

    def _ratio(self, used: usage.Total) -> float:
        """Since the previous look."""
        then, before = self._before
        self._before = now, cpu_s = time.monotonic(), used.user_s + used.system_s
        elapsed = max(now - then, 0.001) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, cpu_s - before) / elapsed)
