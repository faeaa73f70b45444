"""What proplets measure: of themselves and of the tasks that they run, the newest samples of each.

Samples come by the hundred a second and nobody waits for one. They are collected, and written together every few seconds
over the oldest ones; so nothing has ever to be looked for to be deleted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from manager.api.views import timestamp
from manager.fleet.proplets import Proplets
from manager.state import sample_store
from manager.state.ledger import Ledger
from manager.state.records import Task
from manager.state.sample_store import proplet_subject, task_subject
from swashplate import logging, topics
from swashplate.bus import Bus, Received
from swashplate.database import Database
from swashplate.errors import InvalidRequestError, SwashplateError
from swashplate.messages import PropletMetrics, TaskMetrics
from swashplate.service import Tasks

log = logging.get("histories")

WRITE_EVERY_S = 3.0
KEPT, KEPT_OF_DAEMON = 100, 500
MOST_BYTES = 16 * 1024
MOST_UNWRITTEN = 20_000
"""Samples that are kept in memory while the database cannot write."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """``kept`` is how many of its subject are kept."""

    subject: str
    kept: int
    text: str


def kept_of(task: Task) -> int:
    """How many samples of a task are kept."""
    profile = task.spec.monitoring_profile
    if profile is None:
        return KEPT_OF_DAEMON if task.spec.daemon else KEPT
    if not profile.enabled:
        return 0
    return profile.history_size if profile.retain_history else 1


class Histories:
    def __init__(
        self,
        bus: Bus,
        names: topics.Topics,
        database: Database,
        ledger: Ledger,
        proplets: Proplets,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._topics = names
        self._database = database
        self._ledger = ledger
        self._proplets = proplets
        self._clock = clock
        self._unwritten: list[_Sample] = []
        self._numbers: dict[str, int] = {}
        """By subject: the number of its last sample that was written. Owned by whoever writes."""
        self._writing = asyncio.Lock()
        self._work = Tasks(log)

    async def open(self) -> None:
        """Declare the subscriptions; call before the bus connects."""
        await self._bus.subscribe(self._topics.every_proplet("metrics"), self._said_metrics)
        await self._bus.subscribe(self._topics.every_proplet("task_metrics"), self._said_task_metrics)
        self._work.start(self._write_batches(), "histories")

    async def close(self) -> None:
        await self._work.close()
        try:
            await self._write()
        except SwashplateError as error:
            log.warning("the last samples are not written", error=error.sentence)

    # What is measured.

    async def _said_metrics(self, message: Received) -> None:
        said = PropletMetrics.decode(message.payload)
        sender = self._proplets.checked_sender(message, said.proplet_id)
        shown = said.model_dump(include={"timestamp", "cpu_metrics", "memory_metrics"})
        self.of_proplet(sender, {"proplet_id": sender, "namespace": said.namespace, **shown})

    async def _said_task_metrics(self, message: Received) -> None:
        said = TaskMetrics.decode(message.payload)
        sender = self._proplets.checked_sender(message, said.proplet_id)
        self.of_task(sender, said.task_id, said.model_dump(exclude_none=True))

    def of_proplet(self, proplet_id: str, sample: dict[str, Any]) -> None:
        """One sample of a proplet, as it is to be shown."""
        if self._proplets.known(proplet_id) is not None:
            self._keep(proplet_subject(proplet_id), KEPT, sample)

    def of_task(self, sender: str, task_id: str, sample: dict[str, Any]) -> None:
        """One sample of a task; only who has been given the task may say anything of it."""
        task = self._ledger.task(task_id)
        if task is None or not any(each.proplet_id == sender for each in self._ledger.attempts_of(task_id)):
            log.debug("metrics of a task that it was not given", task_id=task_id, proplet_id=sender)
            return
        self._keep(task_subject(task_id), kept_of(task), sample)

    def _keep(self, subject: str, kept: int, sample: dict[str, Any]) -> None:
        if not sample.get("timestamp"):
            sample = {**sample, "timestamp": timestamp(self._clock())}
        text = json.dumps(sample, separators=(",", ":"))
        if len(text) > MOST_BYTES:
            raise InvalidRequestError(f"metrics of {subject}: {len(text)} bytes, at most {MOST_BYTES} are kept")
        if kept and len(self._unwritten) < MOST_UNWRITTEN:
            self._unwritten.append(_Sample(subject, kept, text))

    # What is kept.

    async def _write_batches(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                await self._write()
            except SwashplateError as error:
                log.warning("samples not written, trying again", error=error.sentence, samples=len(self._unwritten))

    async def _write(self) -> None:
        async with self._writing:
            batch = list(self._unwritten)
            if not batch:
                return
            known = {sample.subject: self._numbers.get(sample.subject) for sample in batch}
            self._numbers |= await self._database.run(lambda db: _save(db, batch, known))
            del self._unwritten[: len(batch)]
            self._forget_ended()

    def _forget_ended(self) -> None:
        lasting = {task_subject(task.id) for task in self._ledger.active_tasks()}
        lasting |= {proplet_subject(proplet.id) for proplet in self._proplets.list()}
        self._numbers = {subject: number for subject, number in self._numbers.items() if subject in lasting}

    def forget_proplet(self, proplet_id: str) -> None:
        """It was deleted, with what is written."""
        subject = proplet_subject(proplet_id)
        self._numbers.pop(subject, None)
        self._unwritten = [sample for sample in self._unwritten if sample.subject != subject]

    async def proplet(self, proplet_id: str) -> list[dict[str, Any]]:
        """Newest first. Raises ``NotFoundError``."""
        self._proplets.get(proplet_id)
        return await self._list(proplet_subject(proplet_id), KEPT)

    async def task(self, task_id: str) -> list[dict[str, Any]]:
        """Newest first. Raises ``NotFoundError``."""
        task = await self._ledger.fetch(task_id)
        return await self._list(task_subject(task_id), kept_of(task))

    async def _list(self, subject: str, kept: int) -> list[dict[str, Any]]:
        async with self._writing:  # so that each is either still here or already there
            unwritten = [sample.text for sample in reversed(self._unwritten) if sample.subject == subject]
            written = await self._database.run(lambda db: sample_store.newest(db, subject, kept))
        return [json.loads(text) for text in (*unwritten, *written)][:kept]


def _save(db: Connection, batch: list[_Sample], known: dict[str, int | None]) -> dict[str, int]:
    """Write them; answers the number of the last one of each subject. What was deleted meanwhile has none any more."""
    there = sample_store.existing(db, known)
    batch = [sample for sample in batch if sample.subject in there]
    known = {subject: number for subject, number in known.items() if subject in there}
    numbers = {
        subject: sample_store.last_number(db, subject) if number is None else number
        for subject, number in known.items()
    }
    rows = {}
    for sample in batch:
        number = numbers[sample.subject] = numbers[sample.subject] + 1
        slot = number % sample.kept
        rows[sample.subject, slot] = (sample.subject, slot, number, sample.text)
    sample_store.save(db, list(rows.values()))
    return numbers
