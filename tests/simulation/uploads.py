"""Large results of calls on their way to a manager that may be away, or go away before it has answered."""

from __future__ import annotations

import asyncio

from manager.state.records import CallKey
from manager.state.results import Reference
from proplet.work.journal import PendingUpload
from proplet.work.uploads import Uploads
from swashplate.errors import UnavailableError

SIZE = 300_000
MOST_S = 0.3
ANSWERS_LOST = 0.1


class VirtualUploads(Uploads):
    """The manager's checks are its own; what it keeps in files is in ``world.uploaded``."""

    world = None

    async def _put(self, upload: PendingUpload) -> None:
        chance, life = self.world.chance, self.world.manager
        key, now = CallKey(*upload.ref), asyncio.get_running_loop().time
        until = now() + chance.uniform(0, MOST_S)
        for pause in (0.0, until - now()):  # before its bytes, and when all of them are there
            await asyncio.sleep(pause)
            if life is None or life is not self.world.manager or not life.ready.is_set():
                raise UnavailableError("the manager is away")
            life.made.large.check(key, self._proplet_id, upload.token)
        self.world.uploaded.add((key.task_id, key.place, upload.digest))
        if chance.random() < ANSWERS_LOST:
            raise UnavailableError("the answer is lost")


def stored(world, key: CallKey, digest: str, size: int) -> str | None:
    """Stands where ``LargeResults.stored`` stands."""
    there = (key.task_id, key.place, digest) in world.uploaded
    return Reference(key.task_id, key.place, digest, size).text() if there else None
