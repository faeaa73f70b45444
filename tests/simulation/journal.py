"""The disk of a proplet's journal, in the simulation."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from typing import Any

from proplet.work.commits import Work, _transaction
from proplet.work.journal import SCHEMA
from swashplate.errors import UnavailableError
from swashplate.testing import Disk, Pace
from swashplate.testing.disk import Committer, Outcome


def prepare(disk: Disk) -> None:
    disk.connection.executescript(SCHEMA)


class VirtualCommits:
    """``proplet.commits.Commits`` on a ``Disk``. The SQL is real, the thread is not."""

    def __init__(self, disk: Disk, pace: Pace, source: random.Random) -> None:
        self._connection = disk.connection
        self._committer = Committer(self._perform, pace, source)

    def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, work: Work) -> Any:
        return await self._committer.run(work)

    def _perform(self, group: list[tuple[Work, asyncio.Future[Any]]]) -> list[Outcome]:
        try:
            results = _transaction(self._connection, [work for work, _ in group])
        except Exception:  # noqa: BLE001  # whose it was shows when each is tried alone
            return [self._alone(work, done) for work, done in group]
        return [(done, result, None) for (_, done), result in zip(group, results, strict=True)]

    def _alone(self, work: Work, done: asyncio.Future[Any]) -> Outcome:
        try:
            [result] = _transaction(self._connection, [work])
        except sqlite3.Error as error:
            return done, None, UnavailableError(f"the journal cannot be written: {error}", code="journal")
        except Exception as error:  # noqa: BLE001  # it belongs to the one who asked
            return done, None, error
        return done, result, None
