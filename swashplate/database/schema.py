"""The tables of one service, and how a database comes to have them.

A fresh database is made from the metadata; an older one is migrated; a newer one, or another program's, is refused. Which
revision a database has stands in its table ``alembic_version``. Alembic itself is imported only for a migration.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, inspect, text

from swashplate import logging
from swashplate.errors import ConfigurationError

if TYPE_CHECKING:
    from swashplate.database.backends import Backend

log = logging.get("database")

VERSION_TABLE = "alembic_version"
_FIRST_VERSION_TABLE, _FIRST_VERSION = "schema_version", 1
"""What told the version before there were migrations; its only version is the first revision."""


@dataclass(frozen=True)
class Schema:
    """``service`` names it in messages and in PostgreSQL; ``migrations`` is the package of its revisions.

    A revision is a module ``v0001_what_it_does``; each follows the one before.
    """

    service: str
    metadata: MetaData
    migrations: str

    @cached_property
    def folder(self) -> Path:
        return Path(next(iter(importlib.import_module(self.migrations).__path__)))

    @cached_property
    def revisions(self) -> tuple[str, ...]:
        """Oldest first."""
        found = (re.fullmatch(r"v([0-9]{4})_\w+\.py", path.name) for path in self.folder.iterdir())
        return tuple(sorted(match[1] for match in found if match))

    def prepare(self, backend: Backend, connection: Connection) -> None:
        """Bring the database to the newest revision. Raises ``ConfigurationError`` when this program cannot use it."""
        with connection.begin():
            found = self._revision(connection)
            if found is None:
                self.create(connection)
        if found is None or found == self.revisions[-1]:
            return
        with backend.migrating(connection):
            self._adopt(connection)
            if self._revision(connection) != self.revisions[-1]:
                self.migrate(connection)
        log.info(
            "the database was migrated", service=self.service, before=found or self.revisions[0], now=self.revisions[-1]
        )

    def create(self, connection: Connection) -> None:
        """Every table, in a database that has none of them."""
        self.metadata.create_all(connection)
        self._stamp(connection, self.revisions[-1])

    def migrate(self, connection: Connection, *, to: str = "head") -> None:
        """Run what lies between the revision that is stored and ``to``, in the transaction that is open."""
        from swashplate.database.migrations import upgrade  # noqa: PLC0415  # alembic takes long to import

        upgrade(connection, self, to)

    def _revision(self, connection: Connection) -> str | None:
        """None: there is nothing yet."""
        tables = set(inspect(connection).get_table_names())
        if VERSION_TABLE in tables:
            found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
            if found not in self.revisions:
                raise _newer(str(found), self.revisions[-1])
            return str(found)
        if _FIRST_VERSION_TABLE in tables:
            version = connection.execute(text(f"SELECT version FROM {_FIRST_VERSION_TABLE}")).scalar()  # noqa: S608
            if version != _FIRST_VERSION:
                raise _newer(str(version), self.revisions[-1])
            return ""
        if foreign := sorted(tables & set(self.metadata.tables)):
            raise ConfigurationError(
                f"the database holds tables of another program: {', '.join(foreign)}",
                hint=f"give the {self.service} a database of its own",
            )
        return None

    def _adopt(self, connection: Connection) -> None:
        """A database from before there were migrations has the first revision."""
        if _FIRST_VERSION_TABLE in inspect(connection).get_table_names():
            connection.execute(text(f"DROP TABLE {_FIRST_VERSION_TABLE}"))
            self._stamp(connection, self.revisions[0])

    @staticmethod
    def _stamp(connection: Connection, revision: str) -> None:
        """As Alembic does it."""
        connection.execute(
            text(
                f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL,"
                f" CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
            )
        )
        connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision})  # noqa: S608


def _newer(found: str, known: str) -> ConfigurationError:
    return ConfigurationError(
        f"the database has schema {found}, this program knows up to {known}",
        hint="it was written by a newer version; upgrade this one",
    )
