"""The proplet's journal on a disk of the simulation."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from typing import Any

from proplet import journal
from proplet.journal import Journal
from proplet.states import AttemptState
from swashplate.errors import UnavailableError
from swashplate.testing import Disk, Pace
from swashplate.testing.disk import Committer, Outcome


class VirtualJournal(Journal):
    """The SQL is real, the thread is not."""

    def __init__(self, disk: Disk, pace: Pace, source: random.Random) -> None:
        self._disk = disk
        self._states = {}
        self._committer = Committer(self._perform, pace, source)

    async def __aenter__(self):
        rows = journal._known_attempts(self._disk.connection)
        self._states = {journal.Ref(task_id, number): AttemptState(state) for task_id, number, state in rows}
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def _run(self, work: journal.Work) -> Any:
        return await self._committer.run(work)

    def _perform(self, group: list[tuple[journal.Work, asyncio.Future[Any]]]) -> list[Outcome]:
        connection = self._disk.connection
        jobs = [journal._Job(work, done) for work, done in group]
        try:
            results = journal._transaction(connection, jobs)
        except Exception:
            return [self._alone(job) for job in jobs]
        return [(job.done, result, None) for job, result in zip(jobs, results, strict=True)]

    def _alone(self, job: journal._Job) -> Outcome:
        try:
            [result] = journal._transaction(self._disk.connection, [job])
        except sqlite3.Error as error:
            return job.done, None, UnavailableError(f"the journal cannot be written: {error}", code="journal")
        except Exception as error:
            return job.done, None, error
        return job.done, result, None
