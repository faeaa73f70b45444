"""Results for a Propeller manager, on the disk until the broker has them.

Its protocol confirms nothing, so the broker's word is all there is: a result is sent again with every new connection until
the broker has it, and never after that, because the manager would take a second copy for a second end of the task.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from swashplate import logging
from swashplate.errors import UnavailableError
from swashplate.files import write_whole

log = logging.get("legacy")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Kept:
    """``payload`` is the result as it is published; ``update`` what the coordinator is to have before, when it learned."""

    task_id: str
    payload: bytes
    update: bytes | None = None


class Shelf:
    """One file per task. While a task runs, its file holds the result that is true when the process ends now."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        # One thread: what was asked for first is done first, also when whoever asked is cancelled meanwhile.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shelf")

    async def keep(self, kept: Kept) -> None:
        """Raises ``UnavailableError`` when the disk refuses it."""
        update = None if kept.update is None else base64.b64encode(kept.update).decode()
        text = json.dumps({"task_id": kept.task_id, "payload": kept.payload.decode(), "update": update})
        await self._do(lambda: write_whole(self._path(kept.task_id), text.encode()))

    async def forget(self, task_id: str) -> None:
        await self._do(lambda: self._path(task_id).unlink(missing_ok=True))

    async def left(self) -> list[Kept]:
        """What an earlier life could not bring to the broker."""
        return await self._do(lambda: [kept for path in sorted(self._folder.glob("*.json")) for kept in _read(path)])

    def close(self) -> None:
        self._thread.shutdown()

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(task_id.encode()).hexdigest()}.json"

    async def _do(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise UnavailableError(f"the disk cannot keep a result now: {error}", code="disk_unavailable") from error


def _read(path: Path) -> list[Kept]:
    """What the file holds; nothing when somebody has altered it."""
    try:
        found = json.loads(path.read_bytes())
        update = None if found["update"] is None else base64.b64decode(found["update"])
        return [Kept(str(found["task_id"]), str(found["payload"]).encode(), update)]
    except (ValueError, KeyError, TypeError) as error:
        log.error("a kept result cannot be read", file=str(path), reason=repr(error))
        return []
