"""One database per stateful service: SQLite by default, the same code for any that SQLAlchemy speaks to.

The connection lives in one thread. Work is a plain function that is given the connection; whatever waits while a commit
is under way shares the next one (group commit), each behind a savepoint of its own, and hears of its result only when
that commit is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, text
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import StaticPool

from swashplate.errors import ConfigurationError, UnavailableError

T = TypeVar("T")
Work = Callable[[Connection], T]

MAX_GROUP = 256


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin and end where we say so
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()  # nobody else knows of it yet
            raise

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: asyncio.Future[Any]


_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class Database:
    """Tables are made on first use. ``version`` guards against an older program."""

    def __init__(self, url: str, metadata: MetaData, *, version: int) -> None:
        self._url = url
        self._metadata = metadata
        self._version = version
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False

    async def __aenter__(self) -> Self:
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
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def run(self, work: Work[T]) -> T:
        """The result of ``work``, once what it wrote is durable. What it raises undoes its writes and is raised here.

        ``work`` runs in the database's thread, perhaps twice, and touches nothing but the database. Raises
        ``UnavailableError`` when the database cannot write.
        """
        if self._closed:
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
            engine = create_engine(self._url, poolclass=StaticPool)
            if engine.dialect.name == "sqlite":
                _prepare_sqlite(engine)
            try:
                with engine.begin() as connection:
                    self._prepare_schema(connection)
                self._tell([(opened, None, None)])
                with engine.connect() as connection:
                    while self._serve_group(connection):
                        pass
            finally:
                engine.dispose()
        except SQLAlchemyError as error:
            self._end(opened, ConfigurationError(f"cannot open the database {self._url}: {error}"))
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            self._end(opened, error)

    def _end(self, opened: asyncio.Future[None], error: BaseException) -> None:
        """Nothing more can be done: tell everybody who waits and refuse whoever comes, until the database is closed."""
        self._tell([(opened, None, error)])
        while (job := self._jobs.get()) is not None:
            self._tell([(job.done, None, _gone(error))])

    def _prepare_schema(self, connection: Connection) -> None:
        connection.execute(text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"))
        found = connection.execute(text("SELECT version FROM schema_version")).scalar()
        if found is not None and found > self._version:
            raise ConfigurationError(
                f"the database has schema {found}, this program knows {self._version}",
                hint="it was written by a newer version; upgrade this one",
            )
        self._metadata.create_all(connection)
        if found is None:
            connection.execute(text("INSERT INTO schema_version VALUES (:version)"), {"version": self._version})

    def _serve_group(self, connection: Connection) -> bool:
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
            self._tell(self._perform(connection, group))
        except BaseException as error:
            self._tell([(job.done, None, _gone(error)) for job in group])
            raise
        return job is not None

    @classmethod
    def _perform(cls, connection: Connection, group: list[_Job]) -> list[_Outcome]:
        if len(group) > 1:
            try:
                return cls._together(connection, group)
            except Exception:  # noqa: BLE001  # each of them hears below what is wrong with it
                # A full disk, say. SQLite may have undone the whole transaction then, savepoints and all, or have left it
                # open after a commit that failed. Each for itself, from a clean start.
                connection.connection.rollback()
        return [cls._alone(connection, job) for job in group]

    @staticmethod
    def _together(connection: Connection, group: list[_Job]) -> list[_Outcome]:
        """Raises when nothing of the group was committed."""
        outcomes: list[_Outcome] = []
        with connection.begin():
            for job in group:
                try:
                    with connection.begin_nested():
                        result = job.work(connection)
                except OperationalError:
                    raise
                except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
                    outcomes.append((job.done, None, error))
                else:
                    outcomes.append((job.done, result, None))
        return outcomes

    @staticmethod
    def _alone(connection: Connection, job: _Job) -> _Outcome:
        try:
            with connection.begin():
                result = job.work(connection)
        except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
            connection.connection.rollback()
            return job.done, None, _told(error)
        return job.done, result, None

    def _tell(self, outcomes: list[_Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, outcomes)


def _gone(error: BaseException) -> UnavailableError:
    return UnavailableError(f"the database cannot be used any more: {error!r}", code="database_unavailable")


def _told(error: Exception) -> Exception:
    """A database in trouble is unavailable; a mistake of the work stays what it is."""
    if isinstance(error, DatabaseError) and not isinstance(error, IntegrityError | ProgrammingError | DataError):
        return UnavailableError(f"the database cannot do this now: {error.orig}", code="database_unavailable")
    return error


def _settle(outcomes: list[_Outcome]) -> None:
    for done, result, error in outcomes:
        if done.done():
            continue
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)
