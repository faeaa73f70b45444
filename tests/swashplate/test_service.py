"""A process without credentials waits for them; any other wrong setting ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate.stack.environment import without_roles
from tests.support.ports import free_port
from tests.support.stack import poll

SENTENCE = "failed to load TOML configuration: stat config.toml: no such file or directory"
COMPLETE = '[proxy]\ndomain_id = "d"\nchannel_id = "c"\nclient_id = "i"\nclient_key = "k"\n'


class Role:
    def __init__(self, folder: Path, module: str, **environ: str) -> None:
        self._log = folder / "role.log"
        environment = {**without_roles(os.environ), "PROXY_HTTP_PORT": str(free_port()), **environ}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", module], cwd=folder, env=environment, stderr=log)

    def said(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]

    def says(self, phrase: str, *, times: int = 1) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        return sum(phrase in str(line["msg"]) for line in self.said()) >= times


@contextlib.contextmanager
def running(folder: Path, module: str = "proxy", **environ: str):
    role = Role(folder, module, **environ)
    try:
        yield role
    finally:
        role.process.kill()
        role.process.wait()


@pytest.mark.parametrize("module", ["manager", "proplet", "proxy", "coordinator"])
def test_a_role_without_credentials_waits_in_the_words_of_the_guide_and_stops_when_asked(tmp_path, module):
    with running(tmp_path, module) as role:
        poll(lambda: role.says(SENTENCE))
        (line,) = role.said()
        assert (line["level"], line["again_s"]) == ("ERROR", 1.0)
        assert "_CLIENT_ID" in str(line["hint"])
        role.process.send_signal(signal.SIGTERM)
        assert role.process.wait(5) == 0


def test_the_pauses_grow(tmp_path):
    with running(tmp_path) as role:
        poll(lambda: role.says(SENTENCE, times=2))
        assert [line["again_s"] for line in role.said()] == [1.0, 2.0]


def test_it_starts_when_the_file_appears(tmp_path):
    with running(tmp_path) as role:
        poll(lambda: role.says(SENTENCE))
        (tmp_path / "new").write_text(COMPLETE)
        (tmp_path / "new").rename(tmp_path / "config.toml")
        poll(lambda: role.says("serving HTTP"))


def test_a_file_that_lacks_a_key_is_waited_for_too(tmp_path):
    (tmp_path / "config.toml").write_text(COMPLETE.replace("client_key", "another"))
    with running(tmp_path) as role:
        poll(lambda: role.says("config.toml lacks client_key in section [proxy]"))
        role.process.send_signal(signal.SIGINT)
        assert role.process.wait(5) == 0


@pytest.mark.parametrize("config", ["", COMPLETE])
def test_another_wrong_setting_ends_it_at_once_with_or_without_credentials(tmp_path, config):
    if config:
        (tmp_path / "config.toml").write_text(config)
    with running(tmp_path, PROXY_CHUNK_SIZE="many") as role:
        assert role.process.wait(20) == 1
        assert [line["msg"].partition(":")[0] for line in role.said()] == ["setting PROXY_CHUNK_SIZE"]


def test_a_file_that_cannot_be_read_ends_it(tmp_path):
    (tmp_path / "config.toml").write_text("[proxy\n")
    with running(tmp_path) as role:
        assert role.process.wait(20) == 1
        assert "failed to load TOML configuration: config.toml" in str(role.said()[0]["msg"])
