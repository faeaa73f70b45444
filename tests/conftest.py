"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from provision.brokers import nats_config, write_nats_config
from provision.local import provision_local
from tests.support.nats import Broker


@pytest.fixture(scope="session")
def nats_server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        reason = "nats-server is neither beside the Python interpreter nor on PATH; install the extra `embedded`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def make_broker(nats_server: str, tmp_path: Path):
    """Call with options of ``nats_config`` and, as ``env``, the text of an env file to begin with."""

    def make(*, env: str = "", **options: object) -> Broker:
        env_file = tmp_path / ".env"
        env_file.write_text(env)
        credentials, _ = provision_local(env_file, 2)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        text = nats_config(
            credentials.topics, credentials, host="127.0.0.1", port=port, store_dir=tmp_path / "store", **options
        )
        config = tmp_path / "nats.conf"
        write_nats_config(config, text)
        return Broker(nats_server, config, credentials, port)

    return make


@pytest.fixture
def broker(make_broker):
    with make_broker() as running:
        yield running
