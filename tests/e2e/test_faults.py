"""Real processes killed with SIGKILL at bad moments: nothing is lost, nothing counts twice, nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from client_wasm.demo import GUEST
from tests.support.ports import free_offset
from tests.support.stack import Stack, alive, poll


def proplet(stack, number: int) -> dict:
    return stack.get("manager", f"/proplets/{stack.proplets[number - 1]}")


def test_a_coordinator_killed_after_two_of_three_updates_completes_the_round(stack, line):
    frozen = stack.pid("proplet-3")
    os.kill(frozen, signal.SIGSTOP)
    try:
        body = stack.experiment(model_ref=f"fl/models/{line}_v0")
        status, answer = stack.post("manager", "/fl/experiments", body)
        assert status == 200, answer
        path = f"/rounds/{body['round_id']}/complete"
        poll(lambda: stack.get("coordinator", path)["num_updates"] == 2)
        stack.kill("coordinator")
    finally:
        os.kill(frozen, signal.SIGCONT)
    status = stack.complete(body["round_id"])
    assert (status["completed"], status["num_updates"]) == (True, 3)
    assert stack.get("model-registry", f"/lines/{line}/models")["versions"] == [0, 1]


def test_a_result_that_comes_while_the_manager_is_dead_arrives_after_its_restart(stack, line):
    frozen = stack.pid("proplet-1")
    os.kill(frozen, signal.SIGSTOP)
    try:
        task = {
            "name": "t",
            "image_url": stack.image,
            "proplet_id": stack.proplets[0],
            "dataset": stack.proplets[0],
            "env": {"MODEL_URI": f"fl/models/{line}_v0"},
            "start": True,
        }
        status, made = stack.post("manager", "/tasks", task)
        assert status == 201, made
        poll(lambda: stack.get("manager", f"/tasks/{made['id']}").get("digest"))
        killed = stack.kill("manager")
        poll(lambda: not alive(killed))
    finally:
        os.kill(frozen, signal.SIGCONT)
    ended = stack.task_ended(made["id"])
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


def test_a_killed_proplet_is_shown_offline_within_two_seconds_and_comes_back(stack):
    before = stack.pid("proplet-2")
    stack.kill("proplet-2")
    began = time.monotonic()
    poll(lambda: not proplet(stack, 2)["alive"], within=2)
    assert time.monotonic() - began < 2
    poll(lambda: proplet(stack, 2)["alive"])
    assert stack.pid("proplet-2") != before


def test_a_killed_service_makes_no_ghost_proplet(stack):
    for service in ("proxy", "coordinator"):
        killed = stack.kill(service)
        poll(lambda killed=killed: not alive(killed))
        poll(lambda service=service: healthy(stack, service))
    known = stack.get("manager", "/proplets")
    assert sorted(each["id"] for each in known["proplets"]) == sorted(stack.proplets)


def healthy(stack, service: str) -> bool:
    with contextlib.suppress(OSError):
        return stack.call("GET", f"{stack.url(service)}/health")[0] == 200
    return False


def test_a_killed_broker_is_survived(stack, line):
    stack.kill("broker")
    poll(lambda: healthy(stack, "manager") and healthy(stack, "proxy") and healthy(stack, "coordinator"))
    poll(lambda: all(each["alive"] for each in stack.get("manager", "/proplets")["proplets"]))
    body = stack.experiment(model_ref=f"fl/models/{line}_v0")
    poll(lambda: stack.post("manager", "/fl/experiments", body)[0] == 200)
    assert stack.complete(body["round_id"])["completed"]


def test_a_proplet_killed_in_mid_round_still_delivers(stack, line):
    frozen = stack.pid("proplet-2")
    os.kill(frozen, signal.SIGSTOP)
    body = stack.experiment(model_ref=f"fl/models/{line}_v0")
    status, answer = stack.post("manager", "/fl/experiments", body)
    assert status == 200, answer
    poll(lambda: stack.get("coordinator", f"/rounds/{body['round_id']}/complete")["num_updates"] == 2)
    os.kill(frozen, signal.SIGKILL)
    status = stack.complete(body["round_id"])
    assert (status["completed"], status["num_updates"]) == (True, 3)


def test_below_k_at_the_timeout_the_round_has_failed_and_the_model_is_unchanged(stack, line):
    frozen = stack.pid("proplet-3")
    os.kill(frozen, signal.SIGSTOP)
    try:
        body = stack.experiment(model_ref=f"fl/models/{line}_v0", timeout_s=1.5)
        stack.post("manager", "/fl/experiments", body)
        status = stack.complete(body["round_id"])
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert (status["completed"], status["status"], status["num_updates"]) == (False, "failed", 2)
    assert stack.get("model-registry", f"/lines/{line}/models")["versions"] == [0]
    assert "Round timeout exceeded" in stack.log("coordinator")
    poll(lambda: proplet(stack, 3)["alive"])


def test_nothing_is_left_when_up_is_killed_and_a_new_one_goes_on_with_the_same_state(tmp_path, nats_server):
    with Stack(tmp_path, proplets=1) as one:
        one.push(GUEST)
        body = one.experiment(k_of_n=1)
        assert one.post("manager", "/fl/experiments", body)[0] == 200
        assert one.complete(body["round_id"])["completed"]
        credentials = one.env_file.read_bytes()
        left = one.children()
        assert len(left) >= 9
        one.process.kill()
        one.process.wait()
        poll(lambda: not any(alive(pid) for pid in left), within=5)
    with Stack(tmp_path, proplets=1, offset=one.offset) as again:
        assert again.env_file.read_bytes() == credentials
        assert again.get("model-registry", "/models")["versions"] == [0, 1]
        assert again.complete(body["round_id"])["model_version"] == 1
        left = again.children()
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(20) == 0
        assert not any(alive(pid) for pid in left)


def test_a_taken_port_is_named_with_its_holder(tmp_path, nats_server):
    offset = free_offset()
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 7070 + offset))
        holder.listen()
        command = [sys.executable, "-m", "swashplate", "up", "--port-offset", str(offset)]
        command += ["--state-dir", str(tmp_path / "state"), "--env-file", str(tmp_path / "env")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"port {7070 + offset} is taken by" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_stacks_cannot_share_a_state_folder(stack):
    command = [sys.executable, "-m", "swashplate", "up", "--port-offset", str(free_offset())]
    command += ["--state-dir", str(stack.state), "--env-file", str(stack.env_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"a stack runs in {stack.state} already" in done.stderr
    assert "swashplate up -d" in done.stderr


def test_the_ports_of_another_stack_are_named_as_its_own(stack, tmp_path):
    command = [sys.executable, "-m", "swashplate", "up", "--port-offset", str(stack.offset)]
    command += ["--state-dir", str(tmp_path / "state"), "--env-file", str(tmp_path / "env")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"belongs to a running stack: swashplate down in its folder, or kill {stack.process.pid}," in done.stderr
    assert not (tmp_path / "env").exists()
