"""Metrics over the bus: of the proplet, and of each task that runs for a while. Nobody waits for them: QoS 0."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from proplet.capabilities import memory_bytes
from proplet.monitoring import usage
from proplet.monitoring.usage import Sample
from proplet.work.course import Course, Process
from proplet.work.outgoing import Ref
from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.messages import MonitoringProfile, PropletMetrics, Start, TaskMetrics
from swashplate.service import Tasks

log = logging.get("monitor")

FIRST_S = 1.0
"""When a task is measured for the first time, if its interval is longer."""
DAEMON = MonitoringProfile(interval=120_000_000_000, history_size=500)


def profile_of(start: Start) -> MonitoringProfile | None:
    """None when the task is not to be measured."""
    profile = start.monitoring_profile or (DAEMON if start.daemon else MonitoringProfile())
    return profile if profile.enabled and profile.export_to_mqtt else None


@dataclass(eq=False)
class _Followed:
    """``seen`` is what was found at the last look; ``history`` are the samples that were told."""

    process: Process
    profile: MonitoringProfile
    seen: Sample
    history: deque[Sample] = field(init=False)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.history = deque(maxlen=self.profile.history_size if self.profile.retain_history else 0)


class Monitor:
    """``topics_of`` says where metrics, and task_metrics of which task, go now, ``processes`` are the ids of the zygote and its children, ``start_of`` what an attempt was started with, if it still runs."""

    def __init__(
        self,
        bus: Bus,
        topics_of: Callable[[str, Ref | None], Iterable[str]],
        proplet_id: str,
        namespace: str,
        interval_s: float,
        processes: Callable[[], Iterable[int]],
        start_of: Callable[[Ref], Start | None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._topics_of = topics_of
        self._proplet_id = proplet_id
        self._namespace = namespace
        self._interval_s = interval_s
        self._processes = processes
        self._start_of = start_of
        self._clock = clock
        self._total_memory = memory_bytes()
        self._background = Tasks(log)
        self._followed: dict[Course, _Followed] = {}

    def open(self) -> None:
        self._background.start(self._measure_proplet(), "measure the proplet")

    async def close(self) -> None:
        await self._background.close()

    def follow(self, course: Course) -> None:
        """Measure this attempt while its guest runs."""
        start, process = self._start_of(course.ref), course.process
        if process is None or process.after is not None:
            return
        if start is None or (profile := profile_of(start)) is None:
            return
        now = usage.of_process(process.pid)
        if now is not None:
            elapsed = asyncio.get_running_loop().time() - process.since
            seen = usage.sample(process.before, process.before.cpu_s, now, elapsed)
            followed = self._followed[course] = _Followed(process, profile, seen)
            self._background.start(self._measure_task(course, followed), f"measure {course.ref.task_id}")

    def finish(self, course: Course) -> None:
        """Its run is over. What it came to is its last sample, unless its process was killed."""
        followed = self._followed.pop(course, None)
        if followed is None:
            return
        followed.over.set()
        report, after = course.report(), followed.process.after
        if report is not None and after is not None:
            last = usage.whole(followed.seen, followed.process.before, after, report.used)
            self._say_sample(course.ref, followed, last, report.used.get("wall_s", 0.0))

    def proplet_metrics(self, before: tuple[int, int], now: tuple[int, int]) -> PropletMetrics:
        """Between two looks at the machine's processors."""
        used = usage.of_proplet(self._processes())
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
                "user_seconds": round(used.user_s, 3),
                "system_seconds": round(used.system_s, 3),
                "percent": round(usage.percent_between(before, now), 2),
            },
            memory_metrics={
                "rss_bytes": used.memory,
                "heap_alloc_bytes": heap,
                "heap_sys_bytes": promised,
                "heap_inuse_bytes": heap,
                **{name: value for name, value in container.items() if value is not None},
            },
        )

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat().replace("+00:00", "Z")

    def _say(self, topics: Iterable[str], payload: bytes) -> None:
        with contextlib.suppress(BusError):
            for topic in topics:
                self._bus.post(topic, payload, qos=0)

    async def _measure_proplet(self) -> None:
        before = usage.of_machine()
        while True:
            await asyncio.sleep(self._interval_s)
            now = usage.of_machine()
            self._say(self._topics_of("metrics", None), self.proplet_metrics(before, now).encode())
            before = now

    async def _measure_task(self, course: Course, followed: _Followed) -> None:
        loop = asyncio.get_running_loop()
        process, interval_s = followed.process, followed.profile.interval_s
        looked, cpu_s = process.since, process.before.cpu_s
        pause = min(FIRST_S, interval_s)
        while not await _set_within(followed.over, pause):
            pause = interval_s
            now = usage.of_process(process.pid)
            if process.after is not None or now is None:
                return
            followed.seen = usage.sample(process.before, cpu_s, now, loop.time() - looked)
            looked, cpu_s = loop.time(), now.cpu_s
            self._say_sample(course.ref, followed, followed.seen, looked - process.since)

    def _say_sample(self, ref: Ref, followed: _Followed, taken: Sample, uptime_s: float) -> None:
        followed.history.append(taken)
        metrics = usage.shown(taken, followed.profile, uptime_s, self._total_memory)
        payload = self._task_metrics(ref, metrics, usage.aggregated(followed.history))
        self._say(self._topics_of("task_metrics", ref), payload)

    def _task_metrics(self, ref: Ref, metrics: dict[str, Any], aggregated: dict[str, Any] | None) -> bytes:
        return TaskMetrics(
            task_id=ref.task_id,
            attempt=ref.attempt,
            proplet_id=self._proplet_id,
            timestamp=self._now(),
            metrics=metrics,
            aggregated=aggregated,
        ).encode()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
