"""The proplets as the database has them."""

from __future__ import annotations

import asyncio

from manager.fleet.proplet import Proplet
from manager.state import store
from swashplate import logging
from swashplate.database import Database
from swashplate.errors import SwashplateError
from swashplate.service import Tasks

log = logging.get("proplets")

AGAIN_S = 1.0


class Remembered:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._unsaved: dict[str, Proplet] = {}
        self._wanted = asyncio.Event()
        self._work = Tasks(log)

    async def load(self) -> list[Proplet]:
        return [Proplet.remembered(*row) for row in await self._database.run(store.all_proplets)]

    def open(self) -> None:
        self._work.start(self._save_batches(), "save proplets")

    async def close(self) -> None:
        await self._work.close()
        try:
            await self._save_unsaved()
        except SwashplateError as error:
            log.error("the last proplets are not written", error=error.sentence)

    async def save(self, *proplets: Proplet) -> None:
        """Durable when this returns."""
        rows = [(proplet.id, proplet.described(), proplet.last_seen) for proplet in proplets]
        await self._database.run(lambda db: store.save_proplets(db, rows))

    def save_soon(self, proplet: Proplet) -> None:
        """With all others that wait: a fleet that registers takes a few commits, not one each."""
        self._unsaved[proplet.id] = proplet
        self._wanted.set()

    async def delete(self, proplet_id: str) -> None:
        self._unsaved.pop(proplet_id, None)
        await self._database.run(lambda db: store.delete_proplet(db, proplet_id))

    async def _save_batches(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._save_unsaved()
            except SwashplateError as error:
                log.error("proplets not written, trying again", error=error.sentence, proplets=len(self._unsaved))
                self._wanted.set()
                await asyncio.sleep(AGAIN_S)

    async def _save_unsaved(self) -> None:
        batch, self._unsaved = self._unsaved, {}
        try:
            await self.save(*batch.values())
        except BaseException:
            self._unsaved = batch | self._unsaved
            raise
