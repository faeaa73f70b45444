"""A broker that runs and does not listen."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from provision.brokers import Broker, Kind, Place, User, hashed, running
from provision.brokers.files import config_file
from swashplate.errors import UnavailableError
from swashplate.topics import Grants

DEAF = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); print(flush=True); signal.pause()"


async def test_who_loses_a_right_while_the_broker_does_not_listen_can_still_log_in_later(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "WITHIN_S", 0.05)
    place = Place(tmp_path, pid_file=tmp_path / "pid")
    broker = Broker(Kind.EMBEDDED, place, log_file=tmp_path / "log")
    user = User("p-1", "proplet-1", hashed("key"), Grants(("a", "b"), ()))
    config = tmp_path / config_file(Kind.EMBEDDED)
    await broker.give([], [user])
    with subprocess.Popen([sys.executable, "-c", DEAF, str(config)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "pid").write_text(str(process.pid))
        less = replace(user, grants=Grants(("a",), ()))
        try:
            with pytest.raises(UnavailableError, match="did not read its new access lists"):
                await broker.give([user], [less])
        finally:
            process.kill()
    assert 'user: "p-1"' in config.read_text()
    assert '"b"' not in config.read_text()
