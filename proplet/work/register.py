"""The attempts and invocations that have no result yet, and what they leave of the slots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from proplet.work.course import Course
from proplet.work.outcome import Failure
from proplet.work.outgoing import Ref
from swashplate.messages import Start


@dataclass(eq=False)
class Open:
    """An attempt or an invocation without a result. ``deadline`` is the loop's time, None when only a stop ends it."""

    ref: Ref
    start: Start
    deadline: float | None
    course: Course
    turns: asyncio.Semaphore | None = None
    """Of a latent task: entered, in turn, around each of its invocations."""
    work: asyncio.Task[Any] | None = None
    begun: bool = False
    stopped: Failure | None = None
    recording: bool = False

    @property
    def ready(self) -> bool:
        return self.course.stage == "ready"

    def end(self, reason: Failure) -> None:
        """Stop it, unless it has an outcome or is stopped already."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if self.begun and not self.recording and self.work is not None:
            self.work.cancel()  # before its first step it would be gone without a word


class Register:
    """``slots`` is how many guests run at once."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._open: dict[Ref, Open] = {}
        self._newest: dict[str, Ref] = {}
        """By task: its open attempt of the highest number."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Open]:
        """As it is now, whatever changes meanwhile."""
        return iter(list(self._open.values()))

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._open

    def get(self, ref: Ref) -> Open | None:
        return self._open.get(ref)

    def newest(self, task_id: str) -> Open | None:
        """Its open attempt of the highest number."""
        ref = self._newest.get(task_id)
        return None if ref is None else self._open[ref]

    def of_task(self, task_id: str, attempt: int) -> list[Open]:
        """With its invocations; ``attempt`` 0 means each."""
        return [each for ref, each in self._open.items() if ref.task_id == task_id and attempt in (0, ref.attempt)]

    def calls_of(self, deployment: Ref) -> Iterable[Open]:
        return [each for ref, each in self._open.items() if ref.invocation and ref.deployment == deployment]

    def add(self, each: Open) -> None:
        self._open[each.ref] = each
        if not each.ref.invocation:
            self._newest[each.ref.task_id] = each.ref

    def remove(self, each: Open) -> None:
        del self._open[each.ref]
        if self._newest.get(each.ref.task_id) == each.ref:
            del self._newest[each.ref.task_id]

    @property
    def running(self) -> int:
        """How many have no outcome yet; one whose outcome is only being written has one."""
        return sum(1 for each in self._open.values() if not each.recording)

    @property
    def queued(self) -> int:
        """How many wait for their inputs, for a compilation or for a slot."""
        return sum(1 for each in self._open.values() if each.course.stage in {"", "fetching", "waiting", "compiling"})

    @property
    def invocations(self) -> int:
        return sum(1 for ref in self._open if ref.invocation)

    @property
    def busy(self) -> int:
        """Attempts that have a slot or wait for one; not those whose end is only being written."""
        return sum(
            1 for ref, each in self._open.items() if not ref.invocation and not each.ready and not each.recording
        )

    @property
    def free_slots(self) -> int:
        return max(0, self._slots - self.busy - self.invocations)
