"""Metrics over the bus: of the proplet, and of each task that runs for a while. Nobody waits for them: QoS 0."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from proplet.capabilities import memory_bytes
from proplet.monitoring import usage
from proplet.monitoring.usage import Sample
from proplet.work.course import Course
from proplet.work.outgoing import Ref
from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.messages import MonitoringProfile, PropletMetrics, Start, TaskMetrics
from swashplate.service import Tasks
from swashplate.topics import Topics

log = logging.get("monitor")

FIRST_S = 1.0
"""When a task is measured for the first time, if its interval is longer."""
DAEMON = MonitoringProfile(interval=120_000_000_000, history_size=500)


def profile_of(start: Start) -> MonitoringProfile | None:
    """None when the task is not to be measured."""
    profile = start.monitoring_profile or (DAEMON if start.daemon else MonitoringProfile())
    return profile if profile.enabled and profile.export_to_mqtt else None


class Monitor:
    """``processes`` are the ids of the zygote and its children, ``start_of`` what an attempt was started with, if it still runs."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        proplet_id: str,
        namespace: str,
        interval_s: float,
        processes: Callable[[], Iterable[int]],
        start_of: Callable[[Ref], Start | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._proplet_id = proplet_id
        self._namespace = namespace
        self._interval_s = interval_s
        self._processes = processes
        self._start_of = start_of
        self._clock = clock
        self._total_memory = memory_bytes()
        self._background = Tasks(log)

    def open(self) -> None:
        self._background.start(self._measure_proplet(), "measure the proplet")

    async def close(self) -> None:
        await self._background.close()

    def follow(self, course: Course) -> None:
        """Measure this attempt while its guest runs."""
        start = self._start_of(course.ref)
        if course.process is None or start is None or (profile := profile_of(start)) is None:
            return
        self._background.start(self._measure_task(course, course.process, profile), f"measure {course.ref.task_id}")

    def proplet_metrics(self, before: tuple[int, int], now: tuple[int, int]) -> PropletMetrics:
        """Between two looks at the machine's processors."""
        spent = os.times()
        user, system = spent.user + spent.children_user, spent.system + spent.children_system
        memory = 0
        for pid in (os.getpid(), *self._processes()):
            used = usage.of_process(pid)
            if used is not None:
                memory += used.memory
                if pid != os.getpid():  # those that have ended are among our children's times
                    user, system = user + used.user_s, system + used.system_s
        heap, promised = usage.heap_bytes()
        container = {
            "container_usage_bytes": usage.cgroup_bytes("memory.current"),
            "container_limit_bytes": usage.cgroup_bytes("memory.max"),
        }
        return PropletMetrics(
            proplet_id=self._proplet_id,
            namespace=self._namespace,
            timestamp=self._now(),
            cpu_metrics={
                "user_seconds": round(user, 3),
                "system_seconds": round(system, 3),
                "percent": round(usage.percent_between(before, now), 2),
            },
            memory_metrics={
                "rss_bytes": memory,
                "heap_alloc_bytes": heap,
                "heap_sys_bytes": promised,
                "heap_inuse_bytes": heap,
                **{name: value for name, value in container.items() if value is not None},
            },
        )

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat().replace("+00:00", "Z")

    def _say(self, kind: str, payload: bytes) -> None:
        with contextlib.suppress(BusError):
            self._bus.post(self._topics.proplet(self._proplet_id, kind), payload, qos=0)

    async def _measure_proplet(self) -> None:
        before = usage.of_machine()
        while True:
            await asyncio.sleep(self._interval_s)
            now = usage.of_machine()
            self._say("metrics", self.proplet_metrics(before, now).encode())
            before = now

    async def _measure_task(self, course: Course, process: int, profile: MonitoringProfile) -> None:
        loop = asyncio.get_running_loop()
        began = looked = loop.time()
        first = before = usage.of_process(process)
        history: deque[Sample] = deque(maxlen=profile.history_size if profile.retain_history else 0)
        pause = min(FIRST_S, profile.interval_s)
        while first is not None and before is not None:
            await asyncio.sleep(pause)
            pause = profile.interval_s
            now = usage.of_process(process)
            if course.process != process or now is None:
                return
            taken = usage.sample(first, before, now, loop.time() - looked)
            looked, before = loop.time(), now
            history.append(taken)
            metrics = usage.shown(taken, profile, looked - began, self._total_memory)
            self._say("task_metrics", self._task_metrics(course.ref, metrics, usage.aggregated(history)))

    def _task_metrics(self, ref: Ref, metrics: dict[str, Any], aggregated: dict[str, Any] | None) -> bytes:
        return TaskMetrics(
            task_id=ref.task_id,
            attempt=ref.attempt,
            proplet_id=self._proplet_id,
            timestamp=self._now(),
            metrics=metrics,
            aggregated=aggregated,
        ).encode()
