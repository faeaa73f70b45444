"""Two small tables, and revisions that a test writes itself."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

from swashplate.database import Schema

metadata = MetaData()
numbers = Table("numbers", metadata, Column("n", Integer, primary_key=True), Column("word", String))
children = Table(
    "children",
    metadata,
    Column("n", Integer, ForeignKey("numbers.n", deferrable=True, initially="DEFERRED"), primary_key=True),
)
SCHEMA = Schema("toy", metadata, "tests.support.toy_migrations")
