"""Modules compiled, each in a process of its own that is killed when it takes too much; what took too much is remembered."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from proplet.runtime.worker import Worker, WorkerDiedError
from proplet.runtime.zygote import Zygote
from proplet.sandbox.bounds import Bounds, Compilation
from proplet.sandbox.frames import Answer, Job

REMEMBERED_S = 600.0
REMEMBERED = 1024
KILLED = -9
"""Not by us, but by a system that has no memory left: not what a module does to its compiler."""


@dataclass
class _Running:
    task: asyncio.Task[Answer]
    waiting: int = field(default=0)


class Compilations:
    """``wall_s`` is how long one may take, and ``clock`` counts, in seconds."""

    def __init__(
        self, zygote: Zygote, bounds: Bounds, wall_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._zygote = zygote
        self._bounds = bounds
        self._wall_s = wall_s
        self._clock = clock
        self.count = 0
        self.seconds = 0.0
        """How many were begun, and how long those took that are over."""
        self._running: dict[Compilation, _Running] = {}
        self._refused: OrderedDict[Compilation, tuple[float, Answer]] = OrderedDict()

    def bind(self, bounds: Bounds) -> None:
        """For what is compiled from now on."""
        self._bounds = bounds

    async def compiled(self, job: Job) -> Answer:
        """The module of ``job`` is in the cache unless the answer has an error; ``compiled`` for the first who asked.

        Who asks while it is being compiled waits for the same; when nobody waits any more, the process is killed. Raises
        ``UnavailableError`` and ``WorkerDiedError``.
        """
        wanted = Compilation(
            digest=job.digest,
            binary=job.binary,
            fuel=job.limits.fuel > 0,
            deterministic=job.deterministic,
            bounds=self._bounds,
        )
        if (refused := self._remembered(wanted)) is not None:
            return refused
        running = self._running.get(wanted)
        first = running is None
        if running is None:
            running = self._running[wanted] = _Running(asyncio.ensure_future(self._compile(wanted)))
        running.waiting += 1
        try:
            answer = await asyncio.shield(running.task)
            return answer if first else replace(answer, compiled=False)
        finally:
            running.waiting -= 1
            if not running.waiting:
                running.task.cancel()
                del self._running[wanted]

    def _remembered(self, wanted: Compilation) -> Answer | None:
        if wanted not in self._refused:
            return None
        since, answer = self._refused[wanted]
        return answer if self._clock() - since < REMEMBERED_S else None

    async def _compile(self, wanted: Compilation) -> Answer:
        worker = await Worker.start(self._zygote, "compiler")
        self.count += 1
        began = self._clock()
        try:
            async with asyncio.timeout(self._wall_s):
                return await worker.ask(wanted)
        except TimeoutError:
            took = f"the binary cannot be compiled: compiling it takes more than {self._wall_s:g} s"
            return self._refuse(wanted, Answer(error=took, code="compile_limit"))
        except WorkerDiedError as died:
            if died.ending is None or died.ending >= 0 or died.ending == KILLED:  # a status says nothing of the binary
                raise
            return self._refuse(wanted, wanted.bounds.ended(-died.ending))
        finally:
            self.seconds += self._clock() - began
            worker.kill()

    def _refuse(self, wanted: Compilation, answer: Answer) -> Answer:
        self._refused[wanted] = self._clock(), answer
        self._refused.move_to_end(wanted)
        if len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)
        return answer
