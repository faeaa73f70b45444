"""Where latent tasks are ready, and how busy they are there."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from manager.fleet.proplets import Proplets
from manager.latent.calls import Deployment
from manager.state.records import Attempt, AttemptKey, Task
from manager.work.load import Load


@dataclass(slots=True)
class _Ready:
    proplet_id: str
    concurrency: int
    running: set[str] = field(default_factory=set)
    last: int = 0
    not_before: float = 0.0


class Deployments:
    def __init__(self, proplets: Proplets, load: Load, clock: Callable[[], float]) -> None:
        self._proplets = proplets
        self._load = load
        self._clock = clock
        self._ready: dict[str, dict[AttemptKey, _Ready]] = {}
        self._at: dict[str, set[AttemptKey]] = {}
        self._used = itertools.count(1)
        self._running_at: Counter[str] = Counter()

    def ready(self, task: Task, attempt: Attempt) -> None:
        assert attempt.proplet_id is not None
        deployments = self._ready.setdefault(task.id, {})
        if attempt.key not in deployments:
            deployments[attempt.key] = _Ready(attempt.proplet_id, task.spec.concurrency)
            self._at.setdefault(attempt.proplet_id, set()).add(attempt.key)

    def gone(self, key: AttemptKey) -> set[str]:
        """What ran there."""
        deployments = self._ready.get(key.task_id, {})
        found = deployments.pop(key, None)
        if not deployments:
            self._ready.pop(key.task_id, None)
        if found is None:
            return set()
        self._at[found.proplet_id].discard(key)
        if not self._at[found.proplet_id]:
            del self._at[found.proplet_id]
        for _ in found.running:
            self._count(found.proplet_id, -1)
        return found.running

    def is_ready(self, key: AttemptKey) -> bool:
        return key in self._ready.get(key.task_id, {})

    def running(self, key: AttemptKey) -> set[str]:
        found = self._ready.get(key.task_id, {}).get(key)
        return set() if found is None else set(found.running)

    def at(self, proplet_id: str) -> list[AttemptKey]:
        """The latent tasks that are ready there."""
        return list(self._at.get(proplet_id, ()))

    def of(self, task_id: str) -> list[Deployment]:
        """Those that can be called now: their proplet is alive, is not drained, and has not just refused."""
        return [
            Deployment(
                key=key,
                proplet_id=each.proplet_id,
                turns=each.concurrency or self._slots(each.proplet_id),
                busy=len(each.running),
                load=self._running_at[each.proplet_id],
                last=each.last,
            )
            for key, each in self._ready.get(task_id, {}).items()
            if self._callable(each)
        ]

    def _slots(self, proplet_id: str) -> int:
        return max(1, self._proplets.get(proplet_id).capabilities.slots)

    def _callable(self, each: _Ready) -> bool:
        proplet = self._proplets.known(each.proplet_id)
        reachable = proplet is not None and self._proplets.alive(proplet) and not proplet.draining
        return reachable and each.not_before <= self._clock()

    def avoid(self, key: AttemptKey, until: float) -> None:
        """It has refused one; until then it is not asked."""
        found = self._ready.get(key.task_id, {}).get(key)
        if found is not None:
            found.not_before = until

    def take(self, key: AttemptKey, invocation_id: str) -> None:
        found = self._ready[key.task_id][key]
        found.running.add(invocation_id)
        found.last = next(self._used)
        self._count(found.proplet_id, 1)

    def give_back(self, key: AttemptKey, invocation_id: str) -> None:
        found = self._ready.get(key.task_id, {}).get(key)
        if found is not None and invocation_id in found.running:
            found.running.discard(invocation_id)
            self._count(found.proplet_id, -1)

    def _count(self, proplet_id: str, change: int) -> None:
        self._running_at[proplet_id] += change
        if not self._running_at[proplet_id]:
            del self._running_at[proplet_id]
        self._load.invoking(proplet_id, self._running_at[proplet_id])
