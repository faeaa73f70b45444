"""Changes on their way to the database: in batches, each one transaction.

All records that wait while a commit is under way share the next one, and of a record that changed several times meanwhile
only the last state is written. While the database is in trouble a batch is tried again and again, since memory has decided
already. What the database will never take is found, and goes another way than the rest of its batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection

from manager.state import refusals
from manager.state.records import Erased, Record
from manager.state.refusals import Key, NotStorableError, Records, Refusal
from swashplate import logging
from swashplate.database import Database, is_refusal, reason_of
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.service import Tasks

log = logging.get("ledger")

AGAIN_S, AGAIN_MOST_S = 0.2, 5.0
GATHER_S, CROWD, STREAK = 0.004, 2, 4
"""A commit costs as much as writing a dozen records. So once ``STREAK`` batches of more than ``CROWD`` of them (a task and its
attempt belong together) have followed each other without a pause, each further one is held open so long. Whoever comes
alone waits for nobody, and neither do the few that belong to one round or one workflow."""
ANSWER_S = 10.0
"""How long somebody who waits for an answer is kept waiting for the disk."""

Effect = Callable[[], None]
Done = TypeVar("Done")


@dataclass
class _Batch:
    """What is committed together, and who waits for it, with the ids of what that is about."""

    records: dict[Key, Record | Erased] = field(default_factory=dict)
    effects: list[tuple[Effect, str]] = field(default_factory=list)
    waiting: list[tuple[asyncio.Future[None], frozenset[str]]] = field(default_factory=list)

    def refuse(self, refusal: Refusal) -> None:
        """Tell whoever waits for what was refused, and forget what was to follow from it."""
        for waiting, about in self.waiting:
            if about & refusal.ids and not waiting.done():
                waiting.set_exception(NotStorableError(refusal.sentence()))
        self.effects = [(effect, about) for effect, about in self.effects if about not in refusal.ids]

    def done(self) -> None:
        for waiting, _ in self.waiting:
            if not waiting.done():
                waiting.set_result(None)
        for effect, _ in self.effects:
            try:
                effect()
            except Exception:
                log.exception("an effect of a change failed")


class Commits:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._open: _Batch | None = None
        self._writing: _Batch | None = None
        self._wanted = asyncio.Event()
        self._work = Tasks(log)
        self.trouble: SwashplateError | None = None
        """Why nothing can be written now."""
        self.on_written: Callable[[Sequence[Record]], Any] = lambda _records: None
        """Called when these are on the disk, before anybody hears of it."""
        self.on_refused: Callable[[Refusal], Any] = lambda _refusal: None
        """Called with records that are not written; what takes their place is to be put now."""

    def open(self) -> None:
        self._work.start(self._write_batches(), "ledger")

    async def close(self) -> None:
        """What was put is written first, unless the database cannot write now."""
        if self.trouble is None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._written(frozenset())
            except TimeoutError:
                log.error("the last changes are not written")
        await self._work.close()

    def put(self, key: Key, record: Record | Erased) -> None:
        self._opened().records[key] = record

    def _opened(self) -> _Batch:
        if self._open is None:
            self._open = _Batch()
            self._wanted.set()
        return self._open

    def _unfinished(self) -> Iterator[_Batch]:
        yield from (batch for batch in (self._open, self._writing) if batch is not None)

    def unwritten(self) -> Iterator[tuple[Key, Record | Erased]]:
        """As the database does not know them yet."""
        for batch in self._unfinished():
            yield from batch.records.items()

    def is_written(self, key: Key) -> bool:
        return not any(key in batch.records for batch in self._unfinished())

    def then(self, effect: Effect, about: str) -> None:
        """Call ``effect`` once everything that was put so far is durable; never when that cannot be said of ``about``."""
        latest = self._open or self._writing
        if latest is None:
            effect()
        else:
            latest.effects.append((effect, about))

    async def durable(self, about: frozenset[str]) -> None:
        """Return once everything that was put so far is durable.

        Raises ``UnavailableError`` when that takes too long, and ``NotStorableError`` when it will never be of something with
        one of the ids ``about``.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._written(about)
        except TimeoutError:
            reason = self.trouble.sentence if self.trouble else "the database does not answer"
            raise UnavailableError(
                f"{reason}; what was asked for may still be carried out", code="database_unavailable"
            ) from None

    async def _written(self, about: frozenset[str]) -> None:
        latest = self._open or self._writing
        if latest is not None:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            latest.waiting.append((waiting, about))
            await waiting

    async def _write_batches(self) -> None:
        streak = 0
        while True:
            if not self._wanted.is_set():
                streak = 0
            await self._wanted.wait()
            if streak >= STREAK:
                await asyncio.sleep(GATHER_S)
            self._wanted.clear()
            batch, self._open = self._open, None
            assert batch is not None
            self._writing = batch
            streak = streak + 1 if len(batch.records) > CROWD else 0
            refused = await self._write(batch.records)
            self._writing = None
            if refused:
                self._go_on(batch, refused)
            else:
                self.on_written([each for each in batch.records.values() if not isinstance(each, Erased)])
                batch.done()

    def _go_on(self, batch: _Batch, refused: Sequence[Refusal]) -> None:
        """What is not at fault waits with everybody else for the next batch, which says what became of the rest."""
        following = self._opened()
        for refusal in refused:
            at_fault = {fault.key for fault in refusal.faults}
            for key, record in refusal.records.items():
                del batch.records[key]
                if key not in at_fault:
                    following.records.setdefault(key, record)
            batch.refuse(refusal)
            following.refuse(refusal)
            try:
                self.on_refused(refusal)
            except Exception:
                log.exception("a change that was refused is not made good")
        following.effects[:0] = batch.effects
        following.waiting += batch.waiting
        self.on_written([each for each in batch.records.values() if not isinstance(each, Erased)])

    async def _write(self, records: Records) -> list[Refusal]:
        """Return when they are on the disk but for those that are returned, however long that takes."""
        reason = await self._refused(records)
        if reason is None:
            return []
        found, parts = [], [refusals.units(records)]
        while parts:
            part = parts.pop()
            reason = await self._refused({key: record for unit in part for key, record in unit.items()})
            if reason is None:
                continue
            if len(part) > 1:
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]  # the first is tried first
            else:
                found.append(await self._examined(part[0], reason))
        return found

    async def _examined(self, records: Records, reason: str) -> Refusal:
        try:
            return await self._patiently(partial(refusals.examined, records=records, reason=reason), len(records))
        except Exception as error:
            if not is_refusal(error):
                raise
            return refusals.blamed(records, reason_of(error))

    async def _refused(self, records: Records) -> str | None:
        """Why the database will never take these together; None when it has."""
        try:
            await self._patiently(partial(refusals.write, records=records), len(records))
        except Exception as error:
            if not is_refusal(error):
                raise
            return reason_of(error)
        return None

    async def _patiently(self, work: Callable[[Connection], Done], records: int) -> Done:
        """Try until the database is well. Raises only what will always come again."""
        delay = AGAIN_S
        while True:
            try:
                result = await self._database.run(work)
            except SwashplateError as error:
                log.error("changes not written, trying again", error=error.sentence, records=records)
                self.trouble = error
            except Exception as error:
                if is_refusal(error):
                    self.trouble = None
                    raise
                log.exception("changes not written, trying again", records=records)
                self.trouble = UnavailableError(f"the database refuses a change: {error!r}")
            else:
                self.trouble = None
                return result
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_MOST_S)
