"""Which database is meant. A URL's text never shows a password."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from swashplate.errors import ConfigurationError

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_HINT = "such as postgresql://user:password@host:5432/database, or sqlite:////var/lib/manager.db"


def sqlite_url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def database_url(text: str) -> URL:
    """Raises ``ConfigurationError``, which says what is wrong and not what was given: that may hold a password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError("this is no URL of a database", hint=_HINT) from None
    if url.drivername in _POSTGRES:
        if not url.database:
            raise ConfigurationError("the URL names no database", hint=_HINT)
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite":
        if url.host or not url.database or url.database == ":memory:":
            raise ConfigurationError("the URL names no file", hint="sqlite:// is followed by /relative or //absolute")
        return url
    raise ConfigurationError(f"{url.drivername} is no database that is known here", hint=_HINT)


def shown(url: URL) -> str:
    """For people and logs: without the password, and without options, which may hold one too."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql", query={}, password=None).render_as_string()
