"""How a proplet is told to start and to stop: on its own topics, or as an older kind understands it."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from manager.latent.calls import id_of_turn
from manager.state.records import Attempt, Invocation, Task
from swashplate.bus import Bus
from swashplate.messages import UPLOAD_TOKEN, Invoke, Start, Stop
from swashplate.topics import Topics

LEASE_GRACE_S = 5.0
"""How much longer than the proplet's own deadline the manager waits before it calls an attempt lost."""


@dataclass(frozen=True)
class Parents:
    """The results of the tasks that one depends on, by task id; as a blob when they are too large for a message."""

    results: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None
    size: int = 0


ParentsOf = Callable[[Task], Awaitable[Parents]]


class Dialect(Protocol):
    confirms: bool
    """Does such a proplet say that it has accepted a start, and that it has stopped? And tell a call from its repetition?"""

    async def start(self, task: Task, attempt: Attempt, *, again: bool) -> None:
        """``again``: an earlier one was not answered. Raises ``BusError`` when it may be tried again; any other ``SwashplateError`` is the end of the attempt."""

    async def stop(self, attempt: Attempt) -> None: ...

    def stops_alone(self, attempt: Attempt) -> bool:
        """Would a stop of this attempt leave all others as they are?"""

    async def invoke(self, task: Task, invocation: Invocation) -> None:
        """Raises as ``start`` does."""


class OwnTopics:
    """Every proplet has its own, which nobody else can read."""

    confirms = True

    def __init__(
        self,
        bus: Bus,
        names: Topics,
        parents: ParentsOf,
        token_of: Callable[[Attempt | Invocation], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._bus = bus
        self._topics = names
        self._parents = parents
        self._token_of = token_of

    async def start(self, task: Task, attempt: Attempt, *, again: bool) -> None:
        message = start_message(task, attempt, self._clock(), await self._parents(task), self._token_of(attempt))
        assert attempt.proplet_id is not None
        # Its own answer confirms it, not the broker's; without one it is sent again, and then the broker has to keep it.
        topic = self._topics.to_proplet(attempt.proplet_id, "start")
        self._bus.post(topic, message.encode(), qos=1 if again else 0)

    async def stop(self, attempt: Attempt) -> None:
        assert attempt.proplet_id is not None
        message = Stop(id=attempt.task_id, attempt=attempt.number, proplet_id=attempt.proplet_id)
        await self._bus.publish(self._topics.to_proplet(attempt.proplet_id, "stop"), message.encode())

    def stops_alone(self, attempt: Attempt) -> bool:
        return True

    async def invoke(self, task: Task, invocation: Invocation) -> None:
        assert invocation.proplet_id is not None
        assert invocation.number is not None
        message = Invoke(
            invocation_id=id_of_turn(invocation),
            task_id=invocation.task_id,
            attempt=invocation.number,
            proplet_id=invocation.proplet_id,
            # Of the time that it may take, what is left.
            timeout_s=max(0.1, invocation.deadline - self._clock()),
            tokens={UPLOAD_TOKEN: self._token_of(invocation)},
            **json.loads(invocation.call),
        )
        await self._bus.publish(self._topics.to_proplet(invocation.proplet_id, "invoke"), message.encode())


def start_message(task: Task, attempt: Attempt, now: float, parents: Parents, token: str) -> Start:
    """Of the time that the task may take, what is left. ``token`` is for the upload of a large result."""
    spec = task.spec
    assert attempt.proplet_id is not None
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
        timeout_s=None if attempt.deadline is None else max(0.1, attempt.deadline - LEASE_GRACE_S - now),
        daemon=spec.daemon,
        latent=spec.latent,
        concurrency=spec.concurrency,
        monitoring_profile=spec.monitoring_profile,
        parents=parents.results,
        parents_digest=parents.digest,
        parents_size=parents.size,
        tokens={**spec.tokens, UPLOAD_TOKEN: token},
        limits=spec.limits,
        isolation=spec.isolation,
        deterministic=spec.deterministic,
        seed=spec.seed,
        capabilities=spec.capabilities,
        signatures=spec.signatures,
    )
