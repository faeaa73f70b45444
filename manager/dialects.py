"""How a proplet is told to start and to stop: on its own topics, or as an older kind understands it."""

from __future__ import annotations

import time
from typing import Protocol

from manager.store import Attempt, Task
from swashplate.bus import Bus
from swashplate.messages import Start, Stop
from swashplate.topics import Topics

LEASE_GRACE_S = 5.0
"""How much longer than the proplet's own deadline the manager waits before it calls an attempt lost."""


class Dialect(Protocol):
    confirms: bool
    """Does such a proplet say that it has accepted a start, and that it has stopped?"""

    async def start(self, task: Task, attempt: Attempt) -> None:
        """Raises ``BusError`` when it may be tried again; any other ``SwashplateError`` is the end of the attempt."""

    async def stop(self, attempt: Attempt) -> None: ...


class OwnTopics:
    """Every proplet has its own, which nobody else can read."""

    confirms = True

    def __init__(self, bus: Bus, names: Topics) -> None:
        self._bus = bus
        self._topics = names

    async def start(self, task: Task, attempt: Attempt) -> None:
        message = start_message(task, attempt)
        await self._bus.publish(self._topics.to_proplet(attempt.proplet_id, "start"), message.encode())

    async def stop(self, attempt: Attempt) -> None:
        message = Stop(id=attempt.task_id, proplet_id=attempt.proplet_id)
        await self._bus.publish(self._topics.to_proplet(attempt.proplet_id, "stop"), message.encode())


def start_message(task: Task, attempt: Attempt) -> Start:
    spec = task.spec
    return Start(
        id=task.id,
        attempt=attempt.number,
        proplet_id=attempt.proplet_id,
        name=spec.name,
        kind=spec.kind,
        image_url=spec.image_url,
        digest=task.digest or "",
        size=task.size or 0,
        inputs=spec.inputs,
        cli_args=spec.cli_args or [],
        env=spec.env,
        dataset=spec.dataset,
        timeout_s=max(0.1, attempt.deadline - LEASE_GRACE_S - time.time()),
        tokens=spec.tokens,
    )
