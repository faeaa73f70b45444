"""The logs of tasks: what guests write to stderr, as their proplets send it, for each attempt.

Parts are gathered and written in a thread, a few times a second; a task that prints nothing costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from manager import log_file
from manager.attempt_files import AttemptFiles
from manager.fleet.complaints import Complaints
from manager.fleet.proplets import Proplets
from manager.log_file import Found, Part
from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey, Task
from manager.task_archive import TaskArchive
from swashplate import logging, topics
from swashplate.bus import Bus, Received
from swashplate.errors import InvalidRequestError, NotFoundError
from swashplate.messages import TaskLog
from swashplate.service import Tasks

log = logging.get("task_logs")

GATHER_S = 0.2
LONGEST = 64 * 1024
"""Characters of one part."""
MOST_UNWRITTEN = 8 << 20
"""Bytes that wait for the disk."""
LEAST = 4096
"""Bytes that the log of an attempt counts at least: so much a small file takes."""
ANSWERED = 64 * 1024

Done = TypeVar("Done")


class Shown(NamedTuple):
    """A piece of the log of ``attempt``; ``ended`` with it, and nothing will follow."""

    attempt: int
    proplet_id: str | None
    found: Found
    ended: bool


class TaskLogs:
    """``limit``: bytes of all logs together."""

    def __init__(
        self,
        bus: Bus,
        names: topics.Topics,
        ledger: Ledger,
        proplets: Proplets,
        archive: TaskArchive,
        files: AttemptFiles,
        limit: int,
    ) -> None:
        self._bus = bus
        self._topics = names
        self._ledger = ledger
        self._proplets = proplets
        self._archive = archive
        self._files = files
        self._limit = limit
        self._complaints = Complaints()
        self._unwritten: dict[AttemptKey, list[Part]] = {}
        self._writing: dict[AttemptKey, list[Part]] = {}
        self._waiting_bytes = 0
        self._ends: dict[AttemptKey, int] = {}
        """Of attempts that run: how far their log goes, as this life has heard of it."""
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        """By task: who waits for more."""
        self._wanted = asyncio.Event()
        self._work = Tasks(log)
        self._thread: ThreadPoolExecutor | None = None
        self._sizes: OrderedDict[AttemptKey, int] = OrderedDict()
        """Those written longest ago first. Owned by the thread, as what follows."""
        self._total = 0
        self._earlier: set[AttemptKey] = set()
        """Those that an earlier life wrote."""
        self._measured = False

    async def open(self) -> None:
        """Declare the subscription; call before the bus connects."""
        await self._bus.subscribe(self._topics.every_proplet("logs"), self._said)
        self._work.start(self._write_batches(), "task logs")

    async def close(self) -> None:
        self._complaints.close()
        await self._work.close()
        await self._write()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)

    # What proplets send.

    async def _said(self, message: Received) -> None:
        said = TaskLog.decode(message.payload)
        sender = self._proplets.checked_sender(message, said.proplet_id)
        key = AttemptKey(said.task_id, said.attempt)
        attempt = self._ledger.attempt(key)
        if attempt is None or attempt.proplet_id != sender:
            self._complaints.warn(
                "log of an attempt that it was not given, or that is over", sender, task_id=key.task_id
            )
            return
        if len(said.text) > LONGEST:
            raise InvalidRequestError(f"log of {key.task_id}: {len(said.text)} characters, at most {LONGEST} are taken")
        if said.offset < self._ends.get(key, 0) or self._waiting_bytes > MOST_UNWRITTEN:
            return
        part = Part(said.offset, said.size, said.text.encode(errors="replace"))
        self._ends[key] = part.end
        self._unwritten.setdefault(key, []).append(part)
        self._waiting_bytes += len(part.text)
        self._wanted.set()
        self._wake(key.task_id)

    def gone(self, task: Task, attempt: Attempt) -> None:
        """The attempt has ended."""
        self._ends.pop(attempt.key, None)
        if task.id in self._waiting:
            self._ledger.then(lambda: self._wake(task.id))

    def _wake(self, task_id: str) -> None:
        for waiting in self._waiting.get(task_id, ()):
            if not waiting.done():
                waiting.set_result(None)

    # What is kept.

    async def _write_batches(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(GATHER_S)
            self._wanted.clear()
            await self._write()

    async def _write(self) -> None:
        batch, self._unwritten = self._unwritten, {}
        if not batch:
            return
        self._writing, self._waiting_bytes = batch, 0
        try:
            await self._in_thread(partial(self._append, batch))
        except OSError as error:
            log.warning("logs of tasks are not written", error=str(error), attempts=len(batch))
        self._writing = {}

    async def _in_thread(self, work: Callable[[], Done]) -> Done:
        """One thread, so that whoever reads finds what was to be written before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "task-logs")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _measure(self) -> None:
        found = []
        for path in self._files.root.glob(f"*/*/{log_file.BEGINNING}"):
            key = AttemptKey(path.parent.parent.name, int(path.parent.name))
            found.append((path.stat().st_mtime, key, log_file.size(path.parent)))
        for _, key, size in sorted(found):
            self._count(key, size)
        self._earlier, self._measured = set(self._sizes), True

    def _append(self, batch: dict[AttemptKey, list[Part]]) -> None:
        if not self._measured:
            self._measure()
        for key, parts in batch.items():
            folder = self._files.for_log(key)
            if key in self._earlier:
                self._earlier.discard(key)
                log_file.mend(folder)
            self._count(key, log_file.append(folder, parts))
        while self._total > self._limit and len(self._sizes) > 1:
            oldest = next(iter(self._sizes))
            log_file.remove(self._files.of(oldest))
            self._count(oldest, 0)

    def _count(self, key: AttemptKey, size: int) -> None:
        self._total -= self._sizes.pop(key, 0)
        if size:
            self._sizes[key] = max(size, LEAST)
            self._total += self._sizes[key]

    def erased(self, task: Task) -> None:
        """It is no more, and its files go."""
        for key in [key for key in self._unwritten if key.task_id == task.id]:
            del self._unwritten[key]
        if self._thread is not None:
            self._thread.submit(self._forget, task.id)

    def _forget(self, task_id: str) -> None:
        for key in [key for key in self._sizes if key.task_id == task_id]:
            self._count(key, 0)

    # What is asked.

    async def read(self, task_id: str, number: int, offset: int, wait: float) -> Shown:
        """What follows ``offset``; as soon as there is something or the attempt has ended, or after ``wait`` seconds.

        ``number`` 0 is the latest attempt. Raises ``NotFoundError``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            more: asyncio.Future[Any] = loop.create_future()
            self._waiting.setdefault(task_id, set()).add(more)  # before it is read: it may come while it is
            try:
                shown = await self._look(task_id, number, offset)
                left = until - loop.time()
                if shown.found.end > offset or shown.ended or left <= 0:
                    return shown
                await asyncio.wait([more], timeout=left)
            finally:
                self._waiting[task_id].discard(more)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    async def _look(self, task_id: str, number: int, offset: int) -> Shown:
        attempts = await self._archive.attempts(task_id)
        known = {attempt.number: attempt for attempt in attempts}
        if not known and not number:
            return Shown(0, None, Found(offset, offset, b""), ended=False)
        attempt = known.get(number or max(known, default=0))
        if attempt is None:
            raise NotFoundError(f"task {task_id} has no attempt {number}", code="attempt_not_found")
        key = attempt.key
        fresh = [*self._writing.get(key, ()), *self._unwritten.get(key, ())]
        found = await self._in_thread(lambda: self._found(key, offset, fresh))
        return Shown(attempt.number, attempt.proplet_id, found, attempt.state.ended)

    def _found(self, key: AttemptKey, offset: int, fresh: list[Part]) -> Found:
        def every() -> Any:
            end = 0
            for part in log_file.read(self._files.of(key)):
                yield part
                end = part.end
            yield from (part for part in fresh if part.offset >= end)

        return log_file.from_offset(every(), offset, ANSWERED)
