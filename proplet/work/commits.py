"""SQLite with group commit: works that wait for the disk at the same time share one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from swashplate.errors import UnavailableError

Work = Callable[[sqlite3.Connection], Any]
"""Plain SQL: it may run twice."""

LARGEST_GROUP = 256
PACE_S = 0.003
"""Groups are at least this far apart: a commit costs the same whether it holds one work or twenty."""


class Commits(Protocol):
    """Where the journal keeps what it must not forget."""

    def open(self) -> None:
        """Call within the event loop that will ask for works."""

    async def run(self, work: Work) -> Any:
        """What ``work`` returns, once it is on the disk.

        Raises ``UnavailableError`` when the disk refuses it, and whatever else ``work`` raises as it is.
        """

    async def close(self) -> None: ...


class _Job(NamedTuple):
    work: Work
    done: asyncio.Future[Any]


_Ended = tuple[asyncio.Future[Any], Any, Exception | None]


def _connected(path: Path, schema: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            database.execute(f"PRAGMA {pragma}")
        database.executescript(schema)
    except BaseException:
        database.close()
        raise
    return database


class InlineCommit:
    """Each work in a transaction of its own, in the caller's thread: for a loop whose time is virtual."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        self._database = _connected(self._path, self._schema)

    async def run(self, work: Work) -> Any:
        if self._database is None:
            raise UnavailableError("the journal is closed", code="journal")
        try:
            return _transaction(self._database, [work])[0]
        except sqlite3.Error as error:
            raise _unwritten(error) from error

    async def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class GroupCommit:
    """A thread of its own, which must outlive every job: whoever waits has to hear something."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema
        self._asked: list[_Job] = []
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._handed_in = 0.0
        self._closed = False

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._thread.start()

    async def run(self, work: Work) -> Any:
        if self._closed:
            raise UnavailableError("the journal is closed", code="journal")
        job = _Job(work, self._loop.create_future())
        if not self._asked:
            self._loop.call_at(max(self._loop.time(), self._handed_in + PACE_S), self._hand_in)
        self._asked.append(job)
        return await asyncio.shield(job.done)

    async def close(self) -> None:
        self._closed = True
        self._hand_in()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_in(self) -> None:
        if self._asked:
            self._handed_in = self._loop.time()
            asked, self._asked = self._asked, []
            self._jobs.put(asked)

    # What follows runs in the thread.

    def _serve(self) -> None:
        try:
            with contextlib.closing(_connected(self._path, self._schema)) as database:
                while self._serve_group(database):
                    pass
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            self._refuse_everything(error)

    def _serve_group(self, database: sqlite3.Connection) -> bool:
        """Wait for jobs and do all there are; False when the journal is to close."""
        group: list[_Job] = []
        jobs = self._jobs.get()
        while jobs is not None:
            group += jobs
            if len(group) >= LARGEST_GROUP or self._jobs.empty():
                break
            jobs = self._jobs.get()
        self._hand_over(self._done_together(database, group) or self._done_alone(database, group))
        return jobs is not None

    @staticmethod
    def _done_together(database: sqlite3.Connection, group: list[_Job]) -> list[_Ended]:
        """Empty when one job has spoiled it for all."""
        if len(group) <= 1:
            return []
        try:
            results = _transaction(database, [job.work for job in group])
        except Exception:  # noqa: BLE001  # whose it was shows when each is tried alone
            return []
        return [(job.done, result, None) for job, result in zip(group, results, strict=True)]

    @staticmethod
    def _done_alone(database: sqlite3.Connection, group: list[_Job]) -> list[_Ended]:
        """A full disk may have undone the whole transaction, savepoints and all: each for itself."""
        ended: list[_Ended] = []
        for job in group:
            try:
                ended.append((job.done, _transaction(database, [job.work])[0], None))
            except sqlite3.Error as error:
                ended.append((job.done, None, _unwritten(error)))
            except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
                ended.append((job.done, None, error))
        return ended

    def _refuse_everything(self, error: Exception) -> None:
        """The database cannot be opened, or not be used any more: all that is asked from now on fails."""
        while not (self._closed and self._jobs.empty()) and (jobs := self._jobs.get()) is not None:
            refusal = UnavailableError(f"the journal cannot be used: {error}", code="journal")
            self._hand_over([(job.done, None, refusal) for job in jobs])

    def _hand_over(self, ended: list[_Ended]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_tell, ended)


def _transaction(database: sqlite3.Connection, works: list[Work]) -> list[Any]:
    """What the works return, once it is on the disk; all or nothing."""
    try:
        database.execute("BEGIN IMMEDIATE")
        results = [work(database) for work in works]
        database.execute("COMMIT")
        return results
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _unwritten(error: sqlite3.Error) -> UnavailableError:
    return UnavailableError(f"the journal cannot be written: {error}", code="journal")


def _tell(ended: list[_Ended]) -> None:
    for future, result, error in ended:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
