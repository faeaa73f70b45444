"""Which errors will come again however often the same rows are written, and which mean that the database is in trouble."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

_LASTING_STATES = ("22", "23", "54")
"""PostgreSQL's classes of errors: data, constraints, and what is larger than it can ever take."""
_OF_A_DRIVER = (OverflowError, UnicodeError)
"""What drivers raise for a value that they can make nothing of. Other errors of Python are mistakes of ours: those concern
whatever is written, so that giving up what meets them would be the greater loss."""


def is_refusal(error: BaseException) -> bool:
    """Will writing the same again always fail? Otherwise it may succeed when the database is well again."""
    if isinstance(error, DBAPIError):
        state = str(getattr(error.orig, "sqlstate", None) or "")
        return isinstance(error, IntegrityError | DataError) or state.startswith(_LASTING_STATES)
    if isinstance(error, StatementError):
        return isinstance(error.orig, _OF_A_DRIVER)
    return isinstance(error, _OF_A_DRIVER)


def reason_of(error: BaseException) -> str:
    """What was said first. Further lines of PostgreSQL's answer repeat the value, which is no business of a log."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def refused_column(table: Table, row: dict[str, object]) -> str | None:
    """Which column of a refused row holds what no database stores there; None when it does not show."""
    columns = [column for column in table.columns if column.name in row]
    for check in (_impossible, _too_large):
        for column in columns:
            if check(column, row[column.name]):
                return column.name
    return None


def _impossible(column: Column[object], value: object) -> bool:
    match value:
        case None:
            return not column.nullable
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return True
            return False
        case bool():
            return False
        case int():
            return not -(2**63) <= value < 2**63
        case _:
            return False


def _too_large(column: Column[object], value: object) -> bool:
    narrow = isinstance(column.type, Integer) and not isinstance(column.type, BigInteger)
    return narrow and isinstance(value, int) and not -(2**31) <= value < 2**31
