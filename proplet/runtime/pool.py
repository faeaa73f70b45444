"""The agent's side of the worker processes: a pool of slots, each with a warm worker, replaced when it is spent."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from proplet.sandbox.frames import MESSAGE, STDERR, Answer, Job, packed_message, read
from proplet.work.course import Course
from swashplate import logging
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.service import Tasks

log = logging.get("runtime")

TASKS_PER_WORKER = 10_000
"""Its memory does not grow over 20,000 runs; a start costs as much as a hundred tasks."""
READY_S = 60.0
"""How long a worker may take to start on a busy small machine."""

OnStderr = Callable[[bytes], None]


class WorkerDiedError(SwashplateError):
    """The worker process ended while it ran a task; nothing says that another attempt would fare the same."""

    default_code = "worker_died"
    default_retryable = True


class Worker:
    """One worker process and the socket to it."""

    def __init__(self, modules: Path, empty: Path) -> None:
        ours, theirs = socket.socketpair()
        package_root = str(Path(__file__).resolve().parents[2])
        command = [
            sys.executable,
            "-P",
            "-m",
            "proplet.sandbox.worker",
            str(theirs.fileno()),
            str(os.getpid()),
            str(modules),
        ]
        with theirs:
            # From the main thread: PR_SET_PDEATHSIG follows the thread that started the process.
            self.process = subprocess.Popen(
                command,
                env={"PYTHONPATH": package_root},
                cwd=empty,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.tasks = 0
        self._socket = ours

    async def ready(self) -> None:
        """Raises ``UnavailableError`` when the process does not come up."""
        self._socket.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=1 << 20)
        try:
            async with asyncio.timeout(READY_S):
                await read(self._reader)
        except (EOFError, OSError, TimeoutError) as error:
            raise UnavailableError(f"a worker process did not start{self._ending()}", code="worker_died") from error

    async def run(self, job: Job, on_stderr: OnStderr) -> Answer:
        """Raises ``WorkerDiedError`` when the process ends first."""
        self.tasks += 1
        try:
            self._writer.write(packed_message(job))
            while True:
                kind, payload = await read(self._reader)
                if kind == STDERR:
                    on_stderr(payload)
                elif kind == MESSAGE:
                    return Answer(**json.loads(payload))
        except (EOFError, OSError) as error:
            await asyncio.to_thread(self.process.wait)
            raise WorkerDiedError(f"the worker process ended{self._ending()}") from error

    def _ending(self) -> str:
        code = self.process.poll()
        if code is None:
            return ""
        return f" with signal {-code}" if code < 0 else f" with status {code}"

    async def kill(self) -> None:
        """Returns when the process is gone."""
        self.process.kill()
        if hasattr(self, "_writer"):
            self._writer.close()
        else:
            self._socket.close()
        await asyncio.to_thread(self.process.wait)


class WorkerPool:
    """``slots`` runs at a time. A worker is warm before anything is asked for, and a further one as soon as all are busy."""

    def __init__(self, slots: int, modules: Path, empty: Path) -> None:
        for folder in (modules, empty):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in modules.glob(".incoming-*"):
            leftover.unlink(missing_ok=True)
        self._modules = modules
        self._empty = empty
        self._slots = slots
        self.slot = asyncio.Semaphore(slots)
        """Entered, in turn, around ``run``."""
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._spare: asyncio.Task[None] | None = None
        self._background = Tasks(log)

    async def __aenter__(self) -> Self:
        self._prepare()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for worker in self._all:
            worker.process.kill()
        await self._background.close()
        for worker in list(self._all):
            await worker.kill()
        self._all.clear()

    def processes(self) -> list[int]:
        """The ids of the worker processes."""
        return [worker.process.pid for worker in self._all]

    @property
    def full(self) -> bool:
        """Would one who asks for a slot now have to wait?"""
        return self.slot.locked()

    async def run(self, job: Job, on_stderr: OnStderr, course: Course) -> Answer:
        """Run ``job`` in a worker; call it within a slot. When cancelled, the worker is killed before this returns."""
        worker = await self._take()
        course.process = worker.process.pid
        course.enter("running")
        spent = True
        try:
            answer = await worker.run(job, on_stderr)
            spent = not answer.reusable or worker.tasks >= TASKS_PER_WORKER
            return answer
        finally:
            course.process = None
            if spent:
                worker.process.kill()
                self._background.start(self._bury(worker), "bury worker")
                self._prepare()
            else:
                self._idle.append(worker)

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                if not self._idle and len(self._all) < self._slots:
                    self._prepare()  # for whoever comes while this one is busy
                return worker
            await self._bury(worker)
        if self._spare is not None:
            await asyncio.wait([self._spare])
            if self._idle:
                return self._idle.pop()
        return await self._start()

    async def _start(self) -> Worker:
        worker = Worker(self._modules, self._empty)
        self._all.add(worker)
        try:
            await worker.ready()
        except BaseException:
            await self._bury(worker)
            raise
        return worker

    async def _bury(self, worker: Worker) -> None:
        await worker.kill()
        self._all.discard(worker)

    def _prepare(self) -> None:
        """Start one worker ahead of need."""
        if self._spare is None or self._spare.done():
            self._spare = self._background.start(self._start_spare(), "start worker")

    async def _start_spare(self) -> None:
        self._idle.append(await self._start())
