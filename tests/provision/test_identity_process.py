"""The identity service as a process: what it refuses to start with, what survives its death, and its faults."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.identity import Identity


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"HTTP_HOST": "0.0.0.0"}, "the password that everybody knows"),
        ({"HTTP_HOST": "0.0.0.0", "FAULTS": "hang@1", "HTTP_INSECURE": "true"}, "refusing to make faults"),
        ({"FAULTS": "sulk@1"}, "IDENTITY_FAULTS"),
        ({"FAULTS": "status@1"}, "IDENTITY_FAULTS"),
        ({"FAULTS": "hang@0"}, "IDENTITY_FAULTS"),
        ({"BROKER": "rabbit"}, "IDENTITY_BROKER"),
        ({"STATE_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_it_does_not_start_with_what_cannot_be(tmp_path, settings, reason):
    identity = Identity(tmp_path, **settings)
    assert identity.ends() == 1
    said = identity.log.read_text()
    assert reason in said
    assert "Traceback" not in said


def test_it_serves_beyond_loopback_with_a_password_of_its_own(tmp_path):
    with Identity(tmp_path, HTTP_HOST="0.0.0.0", ADMIN_PASSWORD="of our own") as identity:
        login = {"username": "admin", "password": "of our own"}
        assert identity.call("users", "POST", "/users/tokens/issue", login)[0] == 201


def test_health_tells_that_the_brokers_files_cannot_be_written(tmp_path):
    with Identity(tmp_path, BROKER_DIR="/proc/nowhere") as identity:
        status, answer = identity.call("users", "GET", "/health")
        assert status == 503
        assert "/proc/nowhere" in answer["error"]


def test_records_that_cannot_be_read_are_not_overwritten(tmp_path):
    (tmp_path / "identity").mkdir()
    path = tmp_path / "identity" / "identity.json"
    path.write_text('{"version": 2}')
    identity = Identity(tmp_path)
    assert identity.ends() == 1
    assert str(path) in identity.log.read_text()
    assert path.read_text() == '{"version": 2}'


@pytest.mark.parametrize("fault", ["kill-after@6", "drop-after@6"])
def test_what_was_done_stays_done_though_nobody_heard_of_it(tmp_path, fault):
    with Identity(tmp_path, FAULTS=fault) as identity:
        identity.log_in()
        domain = identity.domain()
        channel = identity.channel(domain)
        client = identity.client(domain, "proplet-1")["id"]
        assert identity.call("clients", "GET", f"/{domain}/clients")[0] == 200
        with pytest.raises(OSError):
            identity.connect(domain, channel, client)
        identity.settings["FAULTS"] = ""
        identity.kill()
        identity.start()
        identity.log_in()
        assert identity.call("clients", "GET", f"/{domain}/clients")[1]["total"] == 1
        assert client in (identity.broker_folder / "acl").read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != identity.log]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("fault", ["kill-before@2", "drop@2", "hang@2", "status@2=503", "status@2=500", "text@2"])
def test_what_a_fault_prevents_is_not_done(tmp_path, fault):
    with Identity(tmp_path, FAULTS=fault) as identity:
        identity.log_in()
        expected = (OSError, ValueError) if fault in {"kill-before@2", "drop@2", "hang@2", "text@2"} else ()
        body = {"name": "fl-demo", "route": "fl-demo"}
        with contextlib.suppress(*expected):
            status, _ = identity.call("domains", "POST", "/domains", body, timeout=1)
            assert not expected
            assert status == int(fault.partition("=")[2])
        if fault.startswith("kill"):
            assert identity.process.wait(10) == -9
            identity.settings["FAULTS"] = ""
            identity.start()
            identity.log_in()
        assert identity.call("domains", "GET", "/domains")[1]["total"] == 0


def test_provisioning_beside_a_running_service_is_known_to_it_at_once(tmp_path):
    env_file = tmp_path / ".env"
    with Identity(tmp_path) as identity:
        command = [
            sys.executable,
            "-m",
            "provision",
            "local",
            "--env-file",
            str(env_file),
            "--state-dir",
            str(tmp_path),
        ]
        subprocess.run([*command, "--broker", "mosquitto"], check=True, capture_output=True, env=os.environ)
        values = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
        _, domains = identity.log_in().call("domains", "GET", "/domains")
        assert [(each["id"], each["route"]) for each in domains["domains"]] == [
            (values["MANAGER_DOMAIN_ID"], "fl-demo")
        ]
        _, clients = identity.call("clients", "GET", f"/{values['MANAGER_DOMAIN_ID']}/clients")
        ids = {each["name"]: each["id"] for each in clients["clients"]}
        assert ids == {
            "manager": values["MANAGER_CLIENT_ID"],
            "proplet-1": values["PROPLET_CLIENT_ID"],
            "proplet-2": values["PROPLET_2_CLIENT_ID"],
            "proplet-3": values["PROPLET_3_CLIENT_ID"],
            "fl-coordinator": values["COORDINATOR_CLIENT_ID"],
            "proxy": values["PROXY_CLIENT_ID"],
        }
        identity.client(values["MANAGER_DOMAIN_ID"], "guest")
        subprocess.run([*command, "--broker", "mosquitto"], check=True, capture_output=True, env=os.environ)
        assert identity.call("clients", "GET", f"/{values['MANAGER_DOMAIN_ID']}/clients")[1]["total"] == 7


def test_of_many_changes_at_once_by_two_processes_none_is_lost(tmp_path):
    with Identity(tmp_path) as one, Identity(tmp_path) as two, ThreadPoolExecutor(8) as pool:
        domain = one.log_in().domain()
        two.log_in()
        asked = [pool.submit((one, two)[n % 2].client, domain, f"client-{n}") for n in range(40)]
        made = {each.result()["id"] for each in asked}
        for service in (one, two):
            _, listed = service.call("clients", "GET", f"/{domain}/clients?limit=100")
            assert {each["id"] for each in listed["clients"]} == made
