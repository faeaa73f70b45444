"""PostgreSQL: a schema and a lock for each service, and what became of a commit that was cut off.

The lock lasts as long as the connection. Whoever opened the database last has its token in the table ``database_owner``: so a
process that lost its connection notices, when it is back, that another one has been at work in between.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.string import StrDumper
from sqlalchemy import URL, Connection, event, text

from swashplate import logging
from swashplate.database.backends import Backend, InUseError, TakenOverError
from swashplate.errors import ConfigurationError, UnavailableError

log = logging.get("database")

_LOCK_CLASS = zlib.crc32(b"swashplate") >> 1  # four signed bytes
_NEVER_WORKS = re.compile(
    "authentication failed|does not exist|no pg_hba.conf entry|no password supplied|not permitted|permission denied"
    "|does not support SSL|certificate|invalid .*(connection option|value|parameter)|root.crt|privileges"
)
# Seconds and milliseconds after which a peer that says nothing counts as gone: ours for us, ours for the server, which
# holds our lock as long as it believes in us.
_CLIENT = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "5s",
    "lock_timeout": "5s",  # what somebody else's transaction holds, as long as SQLite waits
    "timezone": "UTC",
}
_OPTIONAL = {
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "client_connection_check_interval",
}


class _Text(StrDumper):
    """PostgreSQL's text has no NUL; a guest's error may."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))


class Postgres(Backend):
    def __init__(self, url: URL, service: str) -> None:
        super().__init__(url, service)
        self._schema = service.replace("-", "_")
        self._token = secrets.token_hex(16)
        self._opened = False

        @event.listens_for(self.engine, "do_connect")
        def connect(dialect: Any, _: Any, arguments: Any, options: Any) -> Any:
            return self._dial(lambda: dialect.connect(*arguments, **options))

    def _options(self) -> dict[str, Any]:
        who = f"swashplate {self.service} {socket.gethostname()} {os.getpid()}"
        wanted = {**_CLIENT, "application_name": who[:63]}
        return {"connect_args": {k: v for k, v in wanted.items() if k not in self.url.query}}

    @contextmanager
    def held(self) -> Iterator[None]:
        yield  # the connection holds the lock

    def connect(self) -> Connection:
        try:
            return self.engine.connect()
        except (psycopg.Error, OSError) as error:
            raise self._explained(error) from None
        except Exception as error:
            if isinstance(cause := getattr(error, "orig", None), psycopg.Error):
                raise self._explained(cause) from None
            raise

    def _explained(self, error: Exception) -> Exception:
        reason = " ".join(str(error).split()).rpartition("failed: ")[2] or type(error).__name__
        for secret in (self.url.password, self.url.query.get("password")):
            if secret:
                reason = reason.replace(str(secret), "***")
        if isinstance(error, psycopg.ProgrammingError) or _NEVER_WORKS.search(reason):
            return ConfigurationError(f"cannot use the database {self.shown}: {reason}")
        return UnavailableError(
            f"the database {self.shown} does not answer: {reason}",
            code="database_unavailable",
            hint="it is asked again with the next request",
        )

    def _dial(self, connect: Any) -> Any:
        connection: psycopg.Connection[Any] = connect()
        try:
            connection.adapters.register_dumper(str, _Text)
            connection.autocommit = True
            self._begin_session(connection)
            self._lock(connection)
            self._own(connection)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_session(self, connection: psycopg.Connection[Any]) -> None:
        encoding, commit, durable, there = connection.execute(
            "SELECT current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync'),"
            " EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)",
            [self._schema],
        ).fetchone() or ("", "", "", False)
        if encoding != "UTF8":
            raise ConfigurationError(
                f"the database {self.shown} has the encoding {encoding}", hint="create it with ENCODING 'UTF8'"
            )
        if durable != "on" and not self._opened:
            log.warning("PostgreSQL runs with fsync=off: what it confirms can be lost", database=self.shown)
        if commit == "off":
            connection.execute("SET synchronous_commit = on")
        if not there:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
        connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [self._schema])
        for name, value in _SESSION.items():
            try:
                connection.execute("SELECT set_config(%s, %s, false)", [name, value])
            except psycopg.Error:
                if name not in _OPTIONAL or connection.closed:  # not every platform has them
                    raise

    @property
    def _key(self) -> list[int]:
        return [_LOCK_CLASS, zlib.crc32(self._schema.encode()) >> 1]

    def _lock(self, connection: psycopg.Connection[Any]) -> None:
        if (connection.execute("SELECT pg_try_advisory_lock(%s, %s)", self._key).fetchone() or (False,))[0]:
            return
        holder = connection.execute(
            "SELECT application_name, coalesce(client_addr::text, 'this machine'), backend_start::timestamp(0)::text"
            " FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND granted"
            " AND classid = %s AND objid = %s",
            self._key,
        ).fetchone()
        who = f": {holder[0]}, connected from {holder[1]} since {holder[2]} UTC" if holder else ""
        raise InUseError(
            f"another {self.service} uses the database {self.shown}{who}", hint="give each a database of its own"
        )

    def _own(self, connection: psycopg.Connection[Any]) -> None:
        """The first time the database becomes ours; later it must still be."""
        connection.execute("CREATE TABLE IF NOT EXISTS database_owner (token VARCHAR NOT NULL)")
        if not self._opened:
            with connection.transaction():
                connection.execute("DELETE FROM database_owner")
                connection.execute("INSERT INTO database_owner VALUES (%s)", [self._token])
            self._opened = True
        elif connection.execute("SELECT token FROM database_owner").fetchone() != (self._token,):
            raise TakenOverError(
                f"another {self.service} has used the database {self.shown} while it was out of reach",
                hint="see that only one runs, and restart this one",
            )

    def lost(self, connection: Connection) -> bool:
        return connection.invalidated or bool(getattr(connection.connection.dbapi_connection, "closed", True))

    def mark(self, connection: Connection) -> str | None:
        found = connection.execute(_MARK).scalar()
        return None if found is None else str(found)

    def was_committed(self, connection: Connection, mark: str) -> bool:
        with connection.begin():
            return connection.execute(_STATUS, {"mark": mark}).scalar() == "committed"


_MARK = text("SELECT pg_current_xact_id_if_assigned()::text")
_STATUS = text("SELECT pg_xact_status(CAST(:mark AS xid8))")
