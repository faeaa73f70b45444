"""One database per stateful service: SQLite by default, PostgreSQL by URL, the same code for both."""

from swashplate.database.refusals import is_refusal, reason_of, refused_column
from swashplate.database.schema import Schema
from swashplate.database.statements import Bulk, octet_length, replacing
from swashplate.database.thread import Database, Work
from swashplate.database.urls import database_url, shown, sqlite_url

__all__ = [
    "Bulk",
    "Database",
    "Schema",
    "Work",
    "database_url",
    "is_refusal",
    "octet_length",
    "reason_of",
    "refused_column",
    "replacing",
    "shown",
    "sqlite_url",
]
