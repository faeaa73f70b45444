"""What differs between the databases: how to connect, that nobody else does, and what is known after a failure."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from swashplate.database.urls import shown
from swashplate.errors import ConfigurationError, SwashplateError


class InUseError(ConfigurationError):
    """Another process has the database."""


class TakenOverError(SwashplateError):
    """Another process had the database since: what this one remembers of it may be wrong."""

    default_code = "database_taken_over"


class Backend(ABC):
    """Belongs to the database's thread. ``service`` is who uses the database, in messages."""

    def __init__(self, url: URL, service: str) -> None:
        self.url, self.service = url, service
        # What a statement carries is the user's, and no business of a log.
        self.engine: Engine = create_engine(url, poolclass=NullPool, hide_parameters=True, **self._options())

    @property
    def shown(self) -> str:
        return shown(self.url)

    def _options(self) -> dict[str, Any]:
        return {}

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """While this lasts no other process opens the database, as far as that is known without a connection.

        Raises ``InUseError``.
        """

    @abstractmethod
    def connect(self) -> Connection:
        """Raises ``UnavailableError`` when it may work later, ``InUseError`` and ``ConfigurationError`` otherwise."""

    def lost(self, connection: Connection) -> bool:
        """Is the connection gone, and with it whatever was not committed?"""
        return False

    def mark(self, connection: Connection) -> str | None:
        """Names the open transaction, for ``was_committed``; None when nothing was written."""
        return None

    def was_committed(self, connection: Connection, mark: str) -> bool:
        """Asked on a later connection, which exists only once the earlier one has ended."""
        return False

    @contextmanager
    def migrating(self, connection: Connection) -> Iterator[None]:
        """A transaction in which tables may change."""
        with connection.begin():
            yield


def backend_for(url: URL, service: str) -> Backend:
    # Each is imported for whom it serves: the driver of PostgreSQL is an extra.
    if url.get_backend_name() == "sqlite":
        from swashplate.database.sqlite import Sqlite  # noqa: PLC0415

        return Sqlite(url, service)
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigurationError(
            "the driver for PostgreSQL is not installed", hint="pip install 'swashplate[postgres]'"
        )
    from swashplate.database.postgres import Postgres  # noqa: PLC0415

    return Postgres(url, service)
