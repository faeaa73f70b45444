"""The database's thread.

Work is a plain function that is given the connection; whatever waits while a commit is under way shares the next one
(group commit), each behind a savepoint of its own, and hears of its result only when that commit is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DatabaseError, InvalidRequestError, OperationalError, ProgrammingError, SQLAlchemyError

from swashplate import logging
from swashplate.database.backends import Backend, InUseError, TakenOverError, backend_for
from swashplate.database.refusals import is_refusal
from swashplate.database.schema import Schema
from swashplate.errors import ConfigurationError, SwashplateError, UnavailableError

log = logging.get("database")

T = TypeVar("T")
Work = Callable[[Connection], T]

MAX_GROUP = 256
PATIENCE_S = 10.0
"""How long a database that does not answer is waited for, at the start and to learn what became of a commit."""
AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]


_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class _UncertainError(UnavailableError):
    """The connection broke during a commit, and the database cannot be asked what became of it."""


class Database:
    """Tables are made, or brought up to date, when it is opened; no other process opens it meanwhile."""

    def __init__(self, url: URL, schema: Schema, *, patience_s: float = PATIENCE_S) -> None:
        self._url, self._schema, self._patience = url, schema, patience_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._backend: Backend
        self._current: Connection | None = None

    async def __aenter__(self) -> Self:
        """Raises ``ConfigurationError``, or ``UnavailableError`` when the database does not answer."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, args=(opened,), name="database", daemon=True)
        self._thread.start()
        try:
            await opened
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed.set()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def run(self, work: Work[T]) -> T:
        """The result of ``work``, once what it wrote is durable. What it raises undoes its writes and is raised here.

        ``work`` runs in the database's thread, perhaps more than once, and touches nothing but the database. Raises
        ``UnavailableError`` when the database cannot write; with code ``database_uncertain`` when it broke off during the
        commit and did not come back to say whether that had succeeded, otherwise nothing was written.
        """
        if self._closed.is_set():
            raise UnavailableError("the database is closed", code="database_unavailable")
        done: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, done))
        return await done

    async def check(self) -> None:
        """A health check: raises ``UnavailableError`` when the database does not answer."""
        await self.run(lambda connection: connection.execute(text("SELECT 1")).scalar())

    # What follows runs in the thread.

    def _serve(self, opened: asyncio.Future[None]) -> None:
        try:
            self._backend = backend_for(self._url, self._schema.service)
            with self._backend.held():
                try:
                    connection = self._connected(patience_s=self._patience)
                    self._schema.prepare(self._backend, connection)
                    self._tell([(opened, None, None)])
                    while self._serve_group():
                        pass
                finally:
                    self._disconnect()
                    self._backend.engine.dispose()
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            self._end(opened, ConfigurationError(f"cannot open the database {self._backend.shown}: {reason}"))
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            self._end(opened, error)

    def _end(self, opened: asyncio.Future[None], error: BaseException) -> None:
        """Nothing more can be done: tell everybody who waits and refuse whoever comes, until the database is closed."""
        self._tell([(opened, None, error)])
        while (job := self._jobs.get()) is not None:
            self._tell([(job.done, None, _gone(error))])

    def _connected(self, *, patience_s: float = 0.0) -> Connection:
        """The connection, made again when it was lost. Raises ``SwashplateError``."""
        if self._current is not None:
            return self._current
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._current = self._backend.connect()
                return self._current
            except (UnavailableError, InUseError):  # a session of our own may not have ended yet
                if time.monotonic() >= deadline or self._closed.wait(AGAIN_S):
                    raise

    def _disconnect(self) -> None:
        connection, self._current = self._current, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _serve_group(self) -> bool:
        """Wait for work and do all there is; False when the database is to close."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                break
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
        try:
            self._tell(self._perform(group))
        except BaseException as error:
            self._tell([(job.done, None, _gone(error)) for job in group])
            raise
        return job is not None

    def _perform(self, group: list[_Job]) -> list[_Outcome]:
        if len(group) > 1:
            try:
                return self._together(self._connected(), group)
            except (TakenOverError, _UncertainError) as error:
                if isinstance(error, TakenOverError):
                    raise
                return [(job.done, None, error) for job in group]
            except Exception:  # noqa: BLE001  # each of them hears below what is wrong with it
                # A full disk, say. SQLite may have undone the whole transaction then, savepoints and all, or have left it
                # open after a commit that failed. Each for itself, from a clean start.
                self._clean()
        return [self._alone(job) for job in group]

    def _together(self, connection: Connection, group: list[_Job]) -> list[_Outcome]:
        """Raises when nothing of the group was committed."""
        outcomes: list[_Outcome] = []
        with self._committing(connection):
            for job in group:
                try:
                    with connection.begin_nested():
                        result = job.work(connection)
                except OperationalError:
                    raise
                except Exception as error:
                    if self._backend.lost(connection):
                        raise
                    outcomes.append((job.done, None, error))  # it belongs to the one who asked
                else:
                    outcomes.append((job.done, result, None))
        return outcomes

    def _alone(self, job: _Job) -> _Outcome:
        """Done again when the connection turns out to be lost: nothing of it is committed then."""
        for chance in (1, 2):
            try:
                connection = self._connected()
            except TakenOverError:
                raise
            except SwashplateError as error:
                return job.done, None, _away(error)
            try:
                with self._committing(connection):
                    result = job.work(connection)
            except TakenOverError:
                raise
            except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
                if self._clean() and chance == 1 and not isinstance(error, _UncertainError):
                    continue
                return job.done, None, _told(error)
            return job.done, result, None
        raise AssertionError

    @contextlib.contextmanager
    def _committing(self, connection: Connection) -> Any:
        """A transaction. Raises ``_UncertainError``, or something else when nothing was committed."""
        transaction = connection.begin()
        try:
            yield
            mark = self._backend.mark(connection)
        except BaseException:
            with contextlib.suppress(Exception):  # a lost connection has undone it already
                transaction.rollback()
            raise
        try:
            transaction.commit()
        except Exception as error:
            if mark is None or not self._backend.lost(connection):
                with contextlib.suppress(Exception):
                    transaction.rollback()
                raise
            if not self._was_committed(mark, error):
                raise

    def _was_committed(self, mark: str, error: Exception) -> bool:
        self._disconnect()
        log.warning("the connection to the database broke during a commit; asking what became of it")
        try:
            return self._backend.was_committed(self._connected(patience_s=self._patience), mark)
        except TakenOverError:
            raise
        except Exception:  # noqa: BLE001  # it is away still, or again
            self._disconnect()
            raise _UncertainError(
                f"the database broke off during a commit, which may have succeeded: {_reason(error)}",
                code="database_uncertain",
                hint="look whether it was done before asking again",
            ) from error

    def _clean(self) -> bool:
        """After a failure, ready for the next transaction; True when the connection was lost."""
        connection = self._current
        if connection is None:
            return True
        try:
            if not self._backend.lost(connection):
                connection.connection.rollback()
                return False
        except (SQLAlchemyError, InvalidRequestError):
            pass
        except Exception as error:  # noqa: BLE001  # the driver's own
            log.debug("rolling back failed", error=str(error))
        self._disconnect()
        return True

    def _tell(self, outcomes: list[_Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, outcomes)


def _reason(error: BaseException) -> str:
    """What the driver said, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _gone(error: BaseException) -> UnavailableError:
    reason = error.sentence if isinstance(error, SwashplateError) else repr(error)
    return UnavailableError(f"the database cannot be used any more: {reason}", code="database_unavailable")


def _away(error: SwashplateError) -> UnavailableError:
    if isinstance(error, UnavailableError):
        return error
    return UnavailableError(error.sentence, code="database_unavailable", hint=error.hint)


def _told(error: Exception) -> Exception:
    """A database in trouble is unavailable; a mistake of the work stays what it is."""
    if isinstance(error, DatabaseError) and not (isinstance(error, ProgrammingError) or is_refusal(error)):
        return UnavailableError(f"the database cannot do this now: {_reason(error)}", code="database_unavailable")
    return error


def _settle(outcomes: list[_Outcome]) -> None:
    for done, result, error in outcomes:
        if done.done():
            continue
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)
