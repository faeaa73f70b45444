"""A whole round on a stack whose every service demands a token."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import wasmtime

from client_wasm.demo import GUEST
from swashplate.stack.environment import read_env, without_roles
from tests.support.stack import Stack, poll

SCRIPT = Path(__file__).resolve().parents[2] / "test-e2e.sh"
SERVICES = ["MANAGER", "COORDINATOR", "MODEL_REGISTRY", "AGGREGATOR", "DATA_STORE", "PROPLET", "PROXY", "OCI_REGISTRY"]
FULL = {service: f"full-{service}-0123456789" for service in SERVICES}
READ = {service: f"read-{service}-0123456789" for service in SERVICES}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, nats_server):
    stack = Stack(tmp_path_factory.mktemp("guarded"))
    lines = [f"{name}_HTTP_TOKEN={token}" for name, token in FULL.items()]
    lines += [f"{name}_HTTP_READ_TOKEN={token}" for name, token in READ.items()]
    stack.env_file.write_text("\n".join(lines) + "\n")
    with stack as running:
        yield running


def ask(stack, method, service, path, token="", body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(stack.url(service) + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def command(stack, *arguments, **environ):
    environment = {**without_roles(os.environ), **environ}
    done = subprocess.run(
        [sys.executable, "-m", "swashplate", *arguments], check=False, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def push(stack, password):
    return command(stack, "push", str(GUEST), stack.image, ORAS_USER="anybody", ORAS_PASSWORD=password)


def test_a_round_runs_with_every_service_guarded_and_each_token_only_where_it_belongs(guarded):
    assert push(guarded, READ["OCI_REGISTRY"])[0] == 1
    status, said = push(guarded, FULL["OCI_REGISTRY"])
    assert status == 0, said
    experiment = guarded.experiment()
    for token in ("", READ["MANAGER"], FULL["COORDINATOR"]):
        assert ask(guarded, "POST", "manager", "/fl/experiments", token, experiment)[0] == 401
    status, said = ask(guarded, "POST", "manager", "/fl/experiments", FULL["MANAGER"], experiment)
    assert status == 200, said

    def over():
        path = f"/rounds/{experiment['round_id']}/complete?wait=20"
        status, body = ask(guarded, "GET", "coordinator", path, READ["COORDINATOR"])
        assert status == 200
        found = json.loads(body)
        return found if found["completed"] or found["status"] in {"failed", "cancelled"} else None

    done = poll(over)
    assert (done["status"], done["num_updates"]) == ("completed", 3), done
    status, body = ask(guarded, "GET", "model-registry", f"/models/{done['model_version']}", READ["MODEL_REGISTRY"])
    assert status == 200
    assert any(json.loads(body)["w"])


def test_an_uploaded_binary_reaches_its_proplet(guarded):
    """The proxy fetches it from the manager with the token for reading."""
    module = wasmtime.wat2wasm('(module (func (export "answer") (result i32) i32.const 42))')
    file = base64.b64encode(bytes(module)).decode()
    task = {"name": "answer", "file": file, "proplet_id": guarded.proplets[0], "start": True}
    status, body = ask(guarded, "POST", "manager", "/tasks", FULL["MANAGER"], task)
    assert status == 201, body
    path = f"/tasks/{json.loads(body)['id']}"

    def ended():
        found = json.loads(ask(guarded, "GET", "manager", path, READ["MANAGER"])[1])
        return found if found["status"] in {"completed", "failed"} else None

    done = poll(ended)
    assert (done["status"], done.get("results")) == ("completed", "42"), done


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("manager", "/tasks"),
        ("coordinator", "/rounds"),
        ("model-registry", "/models/0"),
        ("aggregator", "/metrics"),
        ("data-store", "/datasets"),
        ("proxy", "/metrics"),
        ("oci-registry", "/v2/"),
    ],
)
def test_without_its_token_a_service_says_nothing_but_its_health(guarded, service, path):
    name = service.upper().replace("-", "_")
    assert ask(guarded, "GET", service, "/health")[0] == 200
    assert ask(guarded, "GET", service, path)[0] == 401
    assert ask(guarded, "GET", service, path, READ[name])[0] == 200


def test_an_update_is_let_in_by_its_own_token_alone(guarded):
    """Refused for what it lacks, not for the service's token: a proplet does not have that one."""
    update = {"round_id": "none", "proplet_id": "p", "num_samples": 1, "update": {"w": [1], "b": 0}}
    for service, path in (("coordinator", "/update"), ("manager", "/fl/update")):
        status, body = ask(guarded, "POST", service, path, "", update)
        assert (status, json.loads(body)["code"]) == (404, "round_not_found")


def test_status_finds_the_token_where_up_found_it(guarded):
    status, said = command(guarded, "status", "--json", "--state-dir", str(guarded.state))
    assert status == 0, said
    assert "alive" in json.loads(said)["health"].values()


def test_the_script_of_a_round_sends_each_service_its_token(guarded):
    arguments = ["--up", "--env-file", str(guarded.env_file), "--state-dir", str(guarded.state)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**without_roles(os.environ), "PATH": path}
    done = subprocess.run([SCRIPT, *arguments], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weighted mean of 3 updates" in done.stdout


FAILURES = (
    "failed to",
    "skipping participant",
    "refuses",
    "Forbidden",
    "dropping",
    "cannot",
    "Traceback",
    "timed out",
    "lost the",
)


def test_a_good_run_says_what_people_look_for_and_nothing_that_looks_like_a_failure(guarded):
    """Nothing has gone wrong here; who was refused over HTTP was told so, not the log."""
    channel = read_env(guarded.env_file)["MANAGER_CHANNEL_ID"]
    for name in ("manager", "proplet-1", "proxy", "coordinator"):
        said = [json.loads(line) for line in guarded.log(name).splitlines()]
        topics = [line["topic"] for line in said if line["msg"] == "successfully subscribed to topic"]
        assert any(channel in topic for topic in topics), name
        assert "connected to MQTT broker" in [line["msg"] for line in said]
        assert [line for line in said if line["level"] not in {"INFO", "DEBUG"}] == [], name
    assert "registry/proplet" in guarded.log("proxy")
    for file in (guarded.state / "logs").iterdir():
        if file.name != "broker.log":
            assert [phrase for phrase in FAILURES if phrase in file.read_text()] == [], file.name


def test_no_token_is_in_a_log_or_in_a_command_line(guarded):
    lines = "".join(guarded.children().values())
    logs = "".join(file.read_text() for file in (guarded.state / "logs").iterdir()) + guarded.output.read_text()
    for token in (*FULL.values(), *READ.values()):
        assert token not in lines
        assert token not in logs
