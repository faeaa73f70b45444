from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from provision import env_file
from provision.credentials import complete


def whole(path):
    """The set in an env file that lacks nothing."""
    values = env_file.read(path)
    found = complete(values, 1)
    assert found.as_env().items() <= values.items()
    return found


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provision", "local", *arguments],
        check=False,
        cwd=directory,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def provisioned(tmp_path: Path) -> Path:
    assert run(tmp_path, "--proplets", "2").returncode == 0
    return tmp_path


def test_ids_are_printed_and_keys_only_when_asked_for(tmp_path):
    shown = run(tmp_path).stdout
    found = whole(tmp_path / ".env")
    assert all(text in shown for c in found.clients for text in (c.name, c.id, c.id_key))
    assert found.domain_id in shown
    assert found.channel_id in shown
    assert not any(c.key in shown for c in found.clients)
    assert all(c.key in run(tmp_path, "--show-keys").stdout for c in found.clients)


def test_running_again_says_that_nothing_changed(provisioned):
    assert "Nothing changed" in run(provisioned, "--proplets", "2").stdout


def test_fewer_proplets_than_before_are_kept_and_it_says_so(provisioned):
    assert "Kept 1 proplet beyond the 1 asked for" in run(provisioned, "--proplets", "1").stdout
    assert len(whole(provisioned / ".env").proplets) == 2


def test_json_is_one_object_without_keys(tmp_path):
    answer = run(tmp_path, "--json", "--env-file", "other.env")
    found = whole(tmp_path / "other.env")
    assert json.loads(answer.stdout) == {
        "domain_id": found.domain_id,
        "channel_id": found.channel_id,
        "clients": {c.name: {"id": c.id} for c in found.clients},
        "env_file": "other.env",
        "changed": True,
    }


@pytest.mark.parametrize(("broker", "config"), [("embedded", "nats.conf"), ("mosquitto", "mosquitto.conf")])
def test_a_brokers_files_are_written_when_asked_for(tmp_path, broker, config):
    options = ("--state-dir", "state", "--broker", broker, "--broker-host", "0.0.0.0", "--broker-port", "2883")
    assert run(tmp_path, *options).returncode == 0
    text = (tmp_path / "state" / "broker" / config).read_text()
    assert "0.0.0.0" in text
    assert "2883" in text
    assert f"{tmp_path}/state/broker/broker.pid" in text
    assert "unchanged" in run(tmp_path, *options).stdout


def test_a_broker_that_there_is_not_is_named(tmp_path):
    answer = run(tmp_path, "--state-dir", "state", "--broker", "rabbit")
    assert (answer.returncode, answer.stderr) == (
        1,
        "error: there is no broker 'rabbit'\nhint: one of embedded, mosquitto\n",
    )


def test_a_mistake_is_one_sentence_and_no_traceback(tmp_path):
    (tmp_path / ".env").write_text("MANAGER_DOMAIN_ID=a\nPROXY_DOMAIN_ID=b\n")
    answer = run(tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith(
        "error: these variables must have one value: MANAGER_DOMAIN_ID=a, PROXY_DOMAIN_ID=b\n"
    )
    assert "Traceback" not in answer.stderr


def test_two_runs_at_once_agree(tmp_path):
    command = [sys.executable, "-m", "provision", "local", "--json"]
    runs = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [json.loads(each.communicate()[0]) for each in runs]
    assert sorted(answer.pop("changed") for answer in answers) == [False, False, True]
    assert answers[0] == answers[1] == answers[2]
