"""The agent's side of the worker processes: a pool of slots, each with a warm worker, replaced when it is spent."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Self

from proplet.runtime.compilations import Compilations
from proplet.runtime.templates import Templates
from proplet.runtime.worker import OnStderr, Worker, WorkerDiedError
from proplet.runtime.zygote import Zygote
from proplet.sandbox.bounds import Bounds
from proplet.sandbox.frames import NOT_COMPILED, Answer, Job
from proplet.sandbox.module_folder import ModuleFolder, UnsafeFolderError
from proplet.work.course import Course, Process
from swashplate import logging
from swashplate.errors import ConfigurationError, SwashplateError
from swashplate.service import Tasks

log = logging.get("runtime")

RUNS_PER_WORKER = 10_000
"""Its memory does not grow over 20,000 runs; a new one costs as much as fifty."""


class WorkerPool:
    """``slots`` runs at a time. A worker is warm before anything is asked for, and a further one as soon as all are busy.
    None ever runs two binaries: what one has done to its process meets no other.

    ``modules`` is the folder of compiled modules, ``empty`` the working folder of every process, ``tasks`` that of the
    running tasks, which is removed when this process is killed. ``bounds`` and ``compile_wall_s`` (seconds) are for one
    compilation. Raises ``ConfigurationError``.
    """

    def __init__(
        self, slots: int, modules: Path, empty: Path, tasks: Path, bounds: Bounds, compile_wall_s: float
    ) -> None:
        empty.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            ModuleFolder(modules)
        except UnsafeFolderError as error:
            raise ConfigurationError(str(error), hint="set PROPLET_STATE_DIR") from error
        self._slots = slots
        self.slot = asyncio.Semaphore(slots)
        """Entered, in turn, around ``run``."""
        self._zygote = Zygote(modules, empty, tasks, on_death=self._lose)
        self._templates = Templates(self._zygote)
        self.compilations = Compilations(self._zygote, bounds, compile_wall_s)
        self._idle: list[Worker] = []
        """Those that are fresh come first."""
        self._all: set[Worker] = set()
        self._spares: set[asyncio.Task[None]] = set()
        self.running = 0
        """Guests that run now; the other counts are since the start."""
        self.forked = 0
        self.recycled = 0
        """Workers that were replaced after they had run something."""
        self.hits = 0
        self.misses = 0
        """Runs whose module was compiled already, and runs whose was not."""
        self._background = Tasks(log)

    async def __aenter__(self) -> Self:
        for _ in range(min(self._slots, os.cpu_count() or 1)):
            self._prepare()
        return self

    async def ready(self) -> list[str]:
        """Returns when a guest can run, with the names of what confines it. Raises ``ConfigurationError`` when none can."""
        started = await asyncio.gather(*self._spares, return_exceptions=True)
        if not self._all:
            reasons = [error.sentence for error in started if isinstance(error, SwashplateError)]
            raise ConfigurationError(
                f"no guest can run on this machine: {'; '.join(reasons[:1]) or 'its processes do not start'}",
                hint="reinstall wasmtime, in the version that this program names, for this machine and this Python",
            )
        return self._zygote.confinement

    def renew(self) -> None:
        """The folder of the tasks is another: those that have run may touch only what is in the one before."""
        for worker in self._all:
            worker.stale = worker.directories is not None
        for worker in [idle for idle in self._idle if idle.stale]:
            self._idle.remove(worker)
            worker.kill()
            self._all.discard(worker)
        self._prepare()

    async def __aexit__(self, *exc: object) -> None:
        for worker in self._all:
            worker.kill()
        await self._background.close()
        await self._templates.close()
        await self._zygote.close()
        self._all.clear()

    def processes(self) -> list[int]:
        """The ids of the worker processes."""
        return [worker.pid for worker in self._all]

    def every_process(self) -> dict[int, str]:
        """Also those of the zygote, of the templates and of the compilers: which is what."""
        return self._zygote.processes() | self._templates.processes()

    @property
    def warm(self) -> int:
        """Workers that wait for a guest."""
        return len(self._idle)

    @property
    def full(self) -> bool:
        """Would one who asks for a slot now have to wait?"""
        return self.slot.locked()

    async def run(self, job: Job, on_stderr: OnStderr, course: Course) -> Answer:
        """Run ``job`` in a worker; call it within a slot. When cancelled, the worker is killed before this returns.

        Raises ``UnavailableError`` and ``WorkerDiedError``.
        """
        answer = await self._run(job, on_stderr, course)
        if answer.code != NOT_COMPILED:
            self.hits += 1
            return answer
        self.misses += 1
        course.enter("compiling")
        compiled = await self.compilations.compiled(job)
        if compiled.error:
            return compiled
        return replace(await self._run(job, on_stderr, course, compiled=True), compiled=compiled.compiled)

    async def _run(self, job: Job, on_stderr: OnStderr, course: Course, *, compiled: bool = False) -> Answer:
        """A worker that does not find what is ``compiled`` may use only a folder of modules that was replaced."""
        alone = job.isolation == "fork"
        worker = await (self._take_own(job) if alone else self._take(job))
        process = course.process = Process(worker.pid, asyncio.get_running_loop().time(), worker.spent)
        course.enter("running")
        spent = True
        self.running += 1
        try:
            worker.directories = list(job.directories)
            answer = await worker.ask(job, on_stderr)
            process.after = worker.spent
            if answer.code != NOT_COMPILED:
                worker.runs, worker.digest = worker.runs + 1, job.digest
            lost = compiled and answer.code == NOT_COMPILED
            spent = alone or lost or worker.stale or not answer.reusable or worker.runs >= RUNS_PER_WORKER
            return answer
        except WorkerDiedError as died:
            if died.ending == -signal.SIGABRT:  # what the runtime does when it gets no more memory
                return Answer(error="the run needs more memory than it may have", code="memory_limit", reusable=False)
            raise
        finally:
            self.running -= 1
            if spent:
                self.recycled += worker.runs > 0
                worker.kill()
                self._all.discard(worker)
                if not alone:
                    self._prepare()
            elif worker.fresh:
                self._idle.insert(0, worker)
            else:
                self._idle.append(worker)

    async def _take_own(self, job: Job) -> Worker:
        worker = await self._templates.start(job)
        self.forked += 1
        self._all.add(worker)
        return worker

    async def _take(self, job: Job) -> Worker:
        worker = self._pick(job)
        if worker is None and self._spares:
            await asyncio.wait(self._spares, return_when=asyncio.FIRST_COMPLETED)
            worker = self._pick(job)
        instead = (worker is None or not worker.runs) and self._make_room(starting=worker is None)
        if worker is None:
            worker = await self._start()
        if not any(idle.fresh for idle in self._idle):
            self._prepare(beyond=instead)  # for whoever comes while this one is busy, or is spent
        return worker

    def _pick(self, job: Job) -> Worker | None:
        """One that has run this binary, else one that has run nothing; and that may touch what this job may."""
        for worker in [each for each in self._idle if each.gone]:
            self._idle.remove(worker)
            self._all.discard(worker)
        for worker in reversed(self._idle):
            if (not worker.runs or worker.digest == job.digest) and worker.directories in (None, list(job.directories)):
                self._idle.remove(worker)
                return worker
        return None

    def _make_room(self, *, starting: bool) -> bool:
        """True when a worker that is not fresh was ended: of those that are idle, for the longest time."""
        ran = next((idle for idle in self._idle if not idle.fresh), None)
        if ran is None or len(self._all) + starting <= self._slots:
            return False
        self._idle.remove(ran)
        ran.kill()
        self._all.discard(ran)
        return True

    async def _start(self) -> Worker:
        worker = await Worker.start(self._zygote, "worker")
        self.forked += 1
        self._all.add(worker)
        return worker

    def _prepare(self, beyond: int = 0) -> None:
        """Start one worker ahead of need, if there are not one for each slot and ``beyond``."""
        if len(self._all) + len(self._spares) < self._slots + beyond:
            spare = self._background.start(self._start_spare(), "start worker")
            self._spares.add(spare)
            spare.add_done_callback(self._spares.discard)

    async def _start_spare(self) -> None:
        self._idle.insert(0, await self._start())

    def _lose(self) -> None:
        """The zygote and all its children are gone; what they ran fails by itself."""
        self._all.difference_update(self._idle)
        self._idle.clear()
        self._prepare()
