"""What the two databases say differently."""

from __future__ import annotations

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite

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
