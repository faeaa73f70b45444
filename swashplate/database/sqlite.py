"""SQLite: a file, written ahead (WAL) and synced at every commit."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import IntegrityError

from swashplate.database.backends import Backend, InUseError
from swashplate.errors import ConfigurationError

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")


class Sqlite(Backend):
    def __init__(self, url: URL, service: str) -> None:
        super().__init__(url, service)

        @event.listens_for(self.engine, "connect")
        def connect(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions begin and end where we say so
            try:
                for pragma in _PRAGMAS:
                    connection.execute(f"PRAGMA {pragma}")
            except BaseException:
                connection.close()  # nobody else knows of it yet
                raise

        @event.listens_for(self.engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock is a file of its own: SQLite's own locks are on the database, and on some file systems of one kind."""
        path = f"{self.url.database}-lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"cannot open the database {self.shown}: {error.strerror}: {path}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InUseError(
                    f"another {self.service} uses the database {self.shown}", hint="give each a database of its own"
                ) from error
            yield
        finally:
            os.close(handle)

    def connect(self) -> Connection:
        return self.engine.connect()

    @contextmanager
    def migrating(self, connection: Connection) -> Iterator[None]:
        """A table that changes is built anew, which those that refer to it must not notice."""
        raw = connection.connection
        raw.execute("PRAGMA foreign_keys=OFF")  # no effect inside a transaction
        try:
            with connection.begin():
                yield
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                    raise IntegrityError(
                        "PRAGMA foreign_key_check", None, ValueError(f"rows lost their parent: {broken}")
                    )
        finally:
            raw.execute("PRAGMA foreign_keys=ON")
