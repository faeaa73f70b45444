"""One database per stateful service: SQLite by default, the same code for any that SQLAlchemy speaks to.

What a transaction wrote is on the disk when its context has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from swashplate.errors import ConfigurationError, UnavailableError


def sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def _prepare_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin and end where we say so
        cursor = connection.cursor()
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # nobody else knows of it yet
            raise

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class Database:
    """Transactions one after another; tables made on first use. ``version`` guards against an older program."""

    def __init__(self, url: str, metadata: MetaData, *, version: int) -> None:
        self._url = url
        self._metadata = metadata
        self._version = version
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._engine = create_async_engine(self._url, poolclass=StaticPool)
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        try:
            await self._prepare_schema()
        except BaseException:
            await self._engine.dispose()
            raise
        return self

    async def _prepare_schema(self) -> None:
        try:
            async with self._engine.begin() as connection:
                await connection.execute(text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"))
                found = (await connection.execute(text("SELECT version FROM schema_version"))).scalar()
                if found is not None and found > self._version:
                    raise ConfigurationError(
                        f"the database has schema {found}, this program knows {self._version}",
                        hint="it was written by a newer version; upgrade this one",
                    )
                await connection.run_sync(self._metadata.create_all)
                if found is None:
                    await connection.execute(text("INSERT INTO schema_version VALUES (:v)"), {"v": self._version})
        except SQLAlchemyError as error:
            raise ConfigurationError(f"cannot open the database {self._url}: {error}") from error

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commit at the end, roll back on an error."""
        async with self._turn, self._engine.begin() as connection:
            yield connection

    async def check(self) -> None:
        """A health check: raises ``UnavailableError`` when the database does not answer."""
        try:
            async with self.transaction() as connection:
                await connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise UnavailableError(f"the database does not answer: {error}") from error
