"""What an attempt is at, told to the manager when it stays at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proplet.work.course import Course
from proplet.work.journal import Journal
from proplet.work.outgoing import status_message
from swashplate.bus import Bus
from swashplate.topics import Topics

STAYS_S = 0.25
"""A stage that is over sooner is not worth a message."""


class Progress:
    """One timer for all: most attempts are over before it rings."""

    def __init__(self, bus: Bus, topics: Topics, proplet_id: str, journal: Journal) -> None:
        self._bus = bus
        self._topic = topics.proplet(proplet_id, "status")
        self._proplet_id = proplet_id
        self._journal = journal
        self._entered: dict[Course, float] = {}
        """When its stage is to be told (the loop's time)."""
        self._timer: asyncio.TimerHandle | None = None
        self.on_stay: Callable[[Course], None] = lambda _course: None
        """Called for a stage that has lasted ``STAYS_S``."""

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def changed(self, course: Course) -> None:
        if course.stage in ("", "ready") or course.ref.invocation:
            self._entered.pop(course, None)
            return
        loop = asyncio.get_running_loop()
        self._entered[course] = loop.time() + STAYS_S
        if self._timer is None:
            self._timer = loop.call_later(STAYS_S, self._ring)

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        for course, due in list(self._entered.items()):
            if due <= loop.time():
                del self._entered[course]
                self._tell(course)
        later = min(self._entered.values(), default=None)
        self._timer = None if later is None else loop.call_at(later, self._ring)

    def _tell(self, course: Course) -> None:
        if self._journal.state(course.ref) is not None:  # never before its acceptance
            said = status_message(course.ref, self._proplet_id, "progress", stage=course.stage)
            self._bus.post(self._topic, said.payload, qos=0)
        self.on_stay(course)
