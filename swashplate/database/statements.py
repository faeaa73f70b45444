"""What the two databases say differently."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Connection, Integer, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import Insert
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


class Bulk:
    """A statement for many rows, whose values go to the driver as they are.

    SQLAlchemy builds a dictionary for every row, and its parameters from that: more work than the database has with it.
    ``made`` makes the statement for the dialect of this name, with the parameters ``names`` in the order in which rows have
    their values.
    """

    def __init__(self, names: Sequence[str], made: Callable[[str], ClauseElement]) -> None:
        self._names = list(names)
        self._made = made
        self._texts: dict[str, str] = {}

    def execute(self, db: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Does nothing without rows."""
        if rows:
            db.exec_driver_sql(self._text(db), rows)

    def _text(self, db: Connection) -> str:
        dialect = db.dialect
        text = self._texts.get(dialect.name)
        if text is None:
            made_as: Any = type(dialect)
            positional = made_as(paramstyle="qmark" if dialect.name == "sqlite" else "format")
            compiled: Any = self._made(dialect.name).compile(dialect=positional, column_keys=self._names)
            assert compiled.positiontup == self._names, "rows would be put together wrongly"
            text = self._texts[dialect.name] = str(compiled)
        return text


def replacing(table: Table) -> Bulk:
    """Inserts rows, or replaces every column of those whose primary key is there already. Rows have their values in the order
    of the table's columns.
    """
    return Bulk([column.name for column in table.columns], lambda dialect: _upsert(dialect, table))


def _upsert(dialect: str, table: Table) -> Insert:
    keys = list(table.primary_key.columns)
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
