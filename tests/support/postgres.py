"""A PostgreSQL server of our own, from Debian's binaries, in a temporary folder: real, with fsync, and it can be killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from sqlalchemy import URL

from swashplate.database import database_url
from tests.support.ports import free_port

PATIENCE = 30.0
PASSWORD = "correct horse"  # what must appear in no message


def programs() -> Path | None:
    """Where the newest version's programs are; Debian keeps them off the PATH."""
    beside = shutil.which("postgres")
    found = [Path(beside).parent] if beside else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in found if (path / "postgres").exists() and (path / "initdb").exists()), None)


_INITDB = ["--username=tester", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
_INITDB += ["--locale-provider=icu", "--icu-locale=en", "--wal-segsize=4"]


def connect(url: URL) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=str(url.password),
        dbname=url.database,
        autocommit=True,
    )


class Postgres:
    """``with Postgres(programs()) as server``; it sorts text as people do, so that who relies on bytes is found out."""

    def __init__(self, bin_folder: Path) -> None:
        self._bin = bin_folder
        self.port = free_port()
        self._names = itertools.count()
        self._free: list[str] = []
        self._used: list[str] = []
        # PostgreSQL refuses to run as root, and its user must reach the folder, which pytest's are closed to.
        self._user: dict[str, Any] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [self._bin / "initdb", "--pgdata", self._data, f"--pwfile={secret}", "--no-sync", *_INITDB],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._user,
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Until it answers."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self._folder}
        options |= {"shared_buffers": "16MB", "max_connections": 40, "fsync": "on", "synchronous_commit": "on"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data]
                + [part for name, value in options.items() for part in ("-c", f"{name}={value}")],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._user,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.admin().close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.02)

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """SIGKILL for the server and each of its processes, at once."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None

    def url(self, name: str) -> URL:
        return database_url(f"postgresql://tester@127.0.0.1:{self.port}/{name}").set(password=PASSWORD)

    def admin(self, name: str = "postgres") -> psycopg.Connection[Any]:
        return connect(self.url(name))

    def new_database(self, options: str = "") -> URL:
        """An empty one. To make a database writes megabytes, so those that nobody uses any more are emptied instead."""
        if not options and self._free:
            name = self._free.pop()
            self._empty(name)
        else:
            name = f"test_{next(self._names)}"
            with self.admin() as admin:
                admin.execute(f"CREATE DATABASE {name} {options}")
        if not options:
            self._used.append(name)
        return self.url(name)

    def _empty(self, name: str) -> None:
        self.cut(name)
        with self.admin() as admin:
            admin.execute(f"ALTER DATABASE {name} RESET ALL")
        with self.admin(name) as admin:
            for (schema,) in admin.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema')"
            ).fetchall():
                admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))

    def reclaim(self) -> None:
        """Nobody uses the databases that were made so far."""
        self._free += self._used
        self._used = []

    def cut(self, name: str) -> int:
        """End every connection to a database, as a fire wall would; how many there were."""
        with self.admin() as admin:
            ended = admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            return len(ended.fetchall())
