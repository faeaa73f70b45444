"""What the two databases say differently."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Executable, Integer, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

_OLD_SQLITE = sqlite3.sqlite_version_info < (3, 43)


class octet_length(GenericFunction[int]):  # noqa: N801  # named as in SQL, which goes by it
    """How many bytes a text has, found without reading a long one where the database can; ``func.length`` never can."""

    type = Integer()
    inherit_cache = True


@compiles(octet_length, "sqlite")
def _octet_length(element: Any, compiler: Any, **more: Any) -> str:
    inner = compiler.process(element.clauses, **more)
    return f"length(CAST({inner} AS BLOB))" if _OLD_SQLITE else f"octet_length({inner})"


_built: dict[tuple[str, Table], Executable] = {}


def upsert(connection: Connection, table: Table) -> Executable:
    """Insert rows, or replace every column of those whose primary key is there already.

    Run it with rows that name every column: ``db.execute(upsert(db, tasks), rows)``.
    """
    dialect = connection.dialect.name
    known = _built.get((dialect, table))
    if known is None:  # built once: SQLAlchemy then finds its compiled form by identity
        known = _built[dialect, table] = _upsert(dialect, table)
    return known


def _upsert(dialect: str, table: Table) -> Executable:
    keys = list(table.primary_key.columns)
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
