"""What survives a crash: a database whose commits take virtual time and are there, whole, from one moment on.

A crash before that moment loses the work; a crash after it, but before whoever waits has heard, does not.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from swashplate.database import Database, Work
from swashplate.errors import UnavailableError

T = TypeVar("T")

Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]
"""Whom to tell, and what: a result, or an error."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a commit takes, in seconds; a share of them, ``slow``, takes up to ``slow_s``."""

    fastest_s: float = 0.000_3
    slowest_s: float = 0.004
    slow: float = 0.0
    slow_s: float = 0.5

    def draw(self, source: random.Random) -> float:
        chance = source.random()
        if chance < self.slow:
            return source.uniform(self.slowest_s, self.slow_s)
        return self.fastest_s + chance * (self.slowest_s - self.fastest_s)


class Disk:
    """A SQLite database in memory, outside of any process."""

    def __init__(self, prepare: Callable[[Disk], None]) -> None:
        """``prepare`` makes the tables."""
        self.connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        self._engine: Engine | None = None
        prepare(self)
        self._blank = self.connection.serialize()

    @property
    def engine(self) -> Engine:
        """The same database by way of SQLAlchemy."""
        if self._engine is None:
            self._engine = create_engine("sqlite://", creator=lambda: self.connection, poolclass=StaticPool)
            event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return self._engine

    def full(self, *, yes: bool) -> None:
        """Whether it refuses every write from now on."""
        self.connection.execute(f"PRAGMA query_only = {int(yes)}")

    def wipe(self) -> None:
        """As after ``prepare``; quicker than a new one."""
        self.full(yes=False)
        self.connection.deserialize(self._blank)


class Committer:
    """Gathers work and does it together when a commit's time has passed: ``perform`` is given what waits, as pairs of work and
    future, and returns what to tell whom.
    """

    def __init__(
        self,
        perform: Callable[[list[tuple[Any, asyncio.Future[Any]]]], list[Outcome]],
        pace: Pace,
        source: random.Random,
    ) -> None:
        self._perform = perform
        self._pace = pace
        self._source = source
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._busy = False

    async def run(self, work: Any) -> Any:
        """The result of ``work``, once it is durable and the news of it is here."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if not self._busy:
            self._begin()
        return await asyncio.shield(done)

    def _begin(self) -> None:
        self._busy = True
        asyncio.get_running_loop().call_later(self._pace.draw(self._source), self._commit)

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        outcomes = self._perform(group)
        asyncio.get_running_loop().call_later(self._pace.fastest_s, self._tell, outcomes)

    def _tell(self, outcomes: list[Outcome]) -> None:
        self._busy = False
        if self._waiting:
            self._begin()
        for done, result, error in outcomes:
            if done.done():
                continue
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)


class VirtualDatabase(Database):
    """A ``Database`` on a ``Disk``. The SQL is real, the thread is not."""

    def __init__(self, disk: Disk, *, pace: Pace, source: random.Random) -> None:
        self._engine = disk.engine
        self._committer = Committer(self._together_or_alone, pace, source)

    async def __aenter__(self) -> Self:
        self._opened = self._engine.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._opened.close()

    async def run(self, work: Work[T]) -> T:
        result: T = await self._committer.run(work)
        return result

    def _together_or_alone(self, group: list[tuple[Work[Any], asyncio.Future[Any]]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for work, done in group:
            outcomes.append(_attempted(self._opened, work, done))
        return outcomes


def _attempted(connection: Connection, work: Work[Any], done: asyncio.Future[Any]) -> Outcome:
    try:
        with connection.begin():
            return done, work(connection), None
    except OperationalError as error:
        return (
            done,
            None,
            UnavailableError(f"the database cannot do this now: {error.orig}", code="database_unavailable"),
        )
    except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
        return done, None, error
