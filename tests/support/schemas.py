"""Schemas compared, and databases as older versions left them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, MetaData, insert, inspect

from swashplate.database import Database, Schema
from swashplate.database.backends import backend_for
from swashplate.database.schema import VERSION_TABLE

_NOT_THE_SERVICE_S = {"database_owner"}


def described(connection: Connection) -> dict[str, Any]:
    """Everything that the database knows of its tables, but for the order of columns."""
    found: dict[str, Any] = {}
    seen = inspect(connection)
    for table in seen.get_table_names():
        if table not in _NOT_THE_SERVICE_S:
            columns = [{**column, "type": repr(column["type"])} for column in seen.get_columns(table)]
            found[table] = {
                "columns": sorted(columns, key=lambda column: column["name"]),
                "primary key": seen.get_pk_constraint(table),
                "foreign keys": sorted(map(repr, seen.get_foreign_keys(table))),
                "unique": sorted(map(repr, seen.get_unique_constraints(table))),
                "indexes": sorted(map(repr, seen.get_indexes(table))),
                "checks": sorted(map(repr, seen.get_check_constraints(table))),
                "options": seen.get_table_options(table),
            }
    return found


def migrated(url: URL, schema: Schema) -> dict[str, Any]:
    """An empty database after every revision, one after the other."""
    backend = backend_for(url, schema.service)
    try:
        with backend.connect() as connection:
            with backend.migrating(connection):
                schema.migrate(connection)
            with connection.begin():
                return described(connection)
    finally:
        backend.engine.dispose()


async def opened(url: URL, schema: Schema) -> dict[str, Any]:
    """A database after a service has opened it."""
    async with Database(url, schema) as database:
        return await database.run(described)


def restored(url: URL, schema: Schema, dump: Path) -> URL:
    """A database with the first revision's tables, and in them what a SQLite database of then had."""
    if url.get_backend_name() == "sqlite":
        with contextlib.closing(sqlite3.connect(str(url.database))) as connection:
            connection.executescript(dump.read_text())
        return url
    backend = backend_for(url, schema.service)
    try:
        with contextlib.closing(sqlite3.connect(":memory:")) as old, backend.connect() as connection:
            old.executescript(dump.read_text())
            old.row_factory = sqlite3.Row
            with backend.migrating(connection):
                schema.migrate(connection, to=schema.revisions[0])
            with connection.begin():
                metadata = MetaData()
                metadata.reflect(connection)
                for table in metadata.sorted_tables:
                    if table.name in {VERSION_TABLE, *_NOT_THE_SERVICE_S}:
                        continue
                    if rows := [dict(row) for row in old.execute(f"SELECT * FROM {table.name}")]:
                        connection.execute(insert(table), rows)
    finally:
        backend.engine.dispose()
    return url
