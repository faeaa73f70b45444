"""The records on disk: one private file, replaced as a whole, which several processes may change one after another.

It is no database because ``up`` reads it before anything can start, and SQLAlchemy's import alone takes longer than all
of provisioning; and every change makes the broker's files as a whole anyway. See docs/decisions/identity-file.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from provision import files
from provision.identity.records import Records
from swashplate.errors import ConfigurationError, UnavailableError
from swashplate.files import make_folder

T = TypeVar("T")
Publish = Callable[[Records, Records], Awaitable[None]]
FILE = "identity.json"


class Store:
    """``publish`` is given the records before and after each change that is on the disk, before anybody hears of it."""

    def __init__(self, folder: Path, publish: Publish) -> None:
        try:
            make_folder(folder)
        except OSError as error:
            raise ConfigurationError(f"cannot use the state folder {folder}: {error.strerror}") from error
        self._path = folder / FILE
        self._publish = publish
        self._mine = asyncio.Lock()
        self._read: tuple[int, int] | None = None
        self._records = Records()
        self._refresh()

    @property
    def records(self) -> Records:
        """As they are on the disk now."""
        self._refresh()
        return self._records

    async def change(self, work: Callable[[Records], T]) -> T:
        """What ``work`` returns, once what it did to the records is on the disk and published; what it raises undoes it.

        Raises ``UnavailableError`` when nothing can be written.
        """
        async with self._alone():
            before = self.records
            draft = before.copied()
            result = work(draft)
            if draft != before:
                try:
                    await asyncio.to_thread(self._save, draft)
                except ConfigurationError as error:
                    raise UnavailableError(error.sentence) from error
                await self._publish(before, draft)
            return result

    async def publish(self) -> None:
        """Publish what is there: a crash may have come between the disk and the broker."""
        async with self._alone():
            await self._publish(self.records, self.records)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._mine:
            lock = files.locked(self._path)
            await asyncio.to_thread(lock.__enter__)
            try:
                yield
            finally:
                lock.__exit__(None, None, None)

    def _save(self, records: Records) -> None:
        files.write_private(self._path, records.model_dump_json(indent=1).encode() + b"\n")

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._read, self._records = None, Records()
            return
        now = (status.st_ino, status.st_mtime_ns)
        if now == self._read:
            return
        try:
            self._records = Records.model_validate_json(files.read_bytes(self._path) or b"")
        except ValidationError as error:
            raise ConfigurationError(
                f"{self._path} is not what this program writes: {error.errors(include_url=False)[0]['msg']}",
                hint="was it written by a newer version, or by hand?",
            ) from error
        self._read = now
