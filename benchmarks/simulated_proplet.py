"""One proplet, as much of it as the manager can see: it registers, reports, and answers a start at once with a result."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from swashplate.messages import Alive, AttemptStatus, Capabilities, PropletCreate, Result
from swashplate.topics import Topics

Publish = Callable[[str, bytes, int], None]
"""Topic, payload, QoS."""


def spread(placed: Counter[str]) -> dict[str, int]:
    """How the starts were spread over the fleet."""
    return {"proplets_used": len(placed), "most_on_one": max(placed.values(), default=0)}


class SimulatedProplet:
    """``publish`` is its connection; ``placed`` counts the starts of each proplet."""

    def __init__(self, number: int, names: Topics, placed: Counter[str], publish: Publish) -> None:
        self.id = str(uuid.UUID(int=number + 1))
        self.phase = number * 0.618034 % 1
        """Of its heartbeat: a fleet does not report in step."""
        self._names = names
        self._placed = placed
        self._publish = publish
        instance = uuid.uuid4().hex
        gone = Alive(proplet_id=self.id, instance=instance, status="offline")
        here = Alive(proplet_id=self.id, instance=instance, status="alive", free_slots=1)
        self._alive_topic, self._alive = names.proplet(self.id, "alive"), here.encode()
        self.will = self._alive_topic, gone.encode()
        self._create = PropletCreate(
            proplet_id=self.id,
            instance=instance,
            metadata={"name": f"simulated-{number}", "os": "linux"},
            capabilities=Capabilities(
                cpu=4, memory_bytes=8 << 30, arch="x86_64", labels={"site": f"s{number % 50}"}, slots=1
            ),
        ).encode()
        self._start_topic = names.to_proplet(self.id, "start")
        self.topics = [names.announce, *(names.to_proplet(self.id, kind) for kind in ("start", "stop", "ack"))]
        """What it subscribes to."""

    def register(self) -> None:
        self._publish(self._names.proplet(self.id, "create"), self._create, 1)

    def report(self) -> None:
        self._publish(self._alive_topic, self._alive, 0)

    def heard(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == self._start_topic:
            self._perform(json.loads(payload))
        elif topic == self._names.announce and not retained:
            self.register()

    def _perform(self, start: dict[str, Any]) -> None:
        ref = {"task_id": start["id"], "attempt": start["attempt"], "proplet_id": self.id}
        said = AttemptStatus(id=f"{start['id']}/{start['attempt']}/accepted", status="accepted", **ref)
        self._publish(self._names.proplet(self.id, "status"), said.encode(), 1)
        total = str(sum(map(int, start["inputs"])))
        done = Result(id=f"{start['id']}/{start['attempt']}/result", results=total, **ref)
        self._publish(self._names.proplet(self.id, "results"), done.encode(), 1)
        self._placed[self.id] += 1
