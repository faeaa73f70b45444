"""A stack in the background, and its services stopped, started, recreated and listened to, by the commands users type."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate.stack import control, services
from swashplate.stack.environment import without_roles
from tests.support.ports import free_offset
from tests.support.stack import alive, poll

COMMAND = [sys.executable, "-m", "swashplate"]


class Background:
    """``swashplate up -d`` and the other commands, on a folder and ports of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offset = free_offset()
        self.state = folder / "state"
        self.env_file = folder / "env"
        self.environment = without_roles(os.environ)

    def up(self, *more: str, shell: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        options = ("--env-file", str(self.env_file), "--port-offset", str(self.offset), "--proplets", "1")
        return self.run("up", "-d", *options, *more, shell=shell)

    def run(self, *words: str, shell: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *words, "--state-dir", str(self.state)]
        environment = self.environment | (shell or {})
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [*COMMAND, *words, "--state-dir", str(self.state)]
        environment = {**self.environment, "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def described(self) -> dict:
        return json.loads(self.run("status", "--json").stdout)

    def owner(self) -> int:
        return int(json.loads((self.state / "stack.json").read_text())["pid"])

    def pids(self) -> dict[str, int]:
        """Service → pid, of the living children."""
        return dict(control.ask(self.state, control.Request(do="states"), print)["pids"])

    def curl(self, service: str, path: str) -> tuple[int, dict]:
        address = f"http://localhost:{services.PORTS[service] + self.offset}{path}"
        done = subprocess.run(
            ["curl", "-s", "-w", "\n%{http_code}", address], capture_output=True, text=True, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)


@pytest.fixture(scope="module")
def background(tmp_path_factory, nats_server):
    # Deeper than the 107 bytes that a Unix socket's address may have.
    stack = Background(tmp_path_factory.mktemp("a" * 100))
    done = stack.up()
    assert done.returncode == 0, done.stderr
    stack.first = done
    yield stack
    stack.run("down")


def test_up_in_the_background_tells_its_progress_and_ends_with_the_table(background):
    assert "provisioning credentials" in background.first.stderr
    assert re.search(r"coordinator +ok +http://localhost:\d+", background.first.stdout)
    assert re.search(r"proplet-1 +alive", background.first.stdout)
    assert "policy       none: " in background.first.stdout
    owner = background.described()["pid"]
    assert os.getsid(owner) == owner  # no terminal's end reaches it


def test_up_again_changes_nothing(background):
    before = background.pids()
    again = background.up()
    assert (again.returncode, background.pids()) == (0, before)
    assert "every service runs with these settings already" in again.stderr
    assert re.search(r"proplet-1 +alive", again.stdout)


def test_up_after_a_change_of_the_env_file_recreates_exactly_the_services_concerned(background):
    before = background.pids()
    with background.env_file.open("a") as file:
        file.write("PROXY_CHUNK_SIZE=123456\n")
    done = background.up()
    after = background.pids()
    assert done.returncode == 0, done.stderr
    assert [name for name in before if before[name] != after[name]] == ["proxy"]
    assert "recreated proxy" in done.stderr.splitlines()
    assert b"PROXY_CHUNK_SIZE=123456" in Path(f"/proc/{after['proxy']}/environ").read_bytes().split(b"\0")


def test_up_takes_a_policy_and_says_what_of_its_shell_does_not_count(background, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[ceilings]\nmemory = "64MiB"\n')
    held = f"{policy} (sha256 {hashlib.sha256(policy.read_bytes()).hexdigest()[:12]}…)"
    before = background.pids()
    done = background.up("--policy", str(policy), shell={"PROPLET_SLOTS": "3"})
    after = background.pids()
    assert done.returncode == 0, done.stderr
    assert f"not from this shell: PROPLET_SLOTS; a running stack goes by {background.env_file}" in done.stderr
    assert [name for name in before if before[name] != after[name]] == ["proplet-1"]
    assert f"policy       {held}" in done.stdout

    policy.write_text("[nonsense]\n")
    os.kill(background.described()["pids"]["proplet-1"], signal.SIGHUP)
    reason = f"policy {policy}: field nonsense: there is no such field"
    poll(lambda: reason in background.run("logs", "proplet-1").stdout)
    assert f"policy       an earlier {held}" in background.run("status").stdout
    policy.write_text("")  # whoever starts the stack again goes by it


def test_up_with_a_new_channel_takes_everybody_there_and_the_broker_too(background):
    before = background.pids()
    channel = "5d449aa6-0215-46dd-ba32-64d2ff9d45ee"
    background.env_file.write_text(re.sub(r"(_CHANNEL_ID)=.*", rf"\1={channel}", background.env_file.read_text()))
    done = background.up()
    assert done.returncode == 0, done.stderr
    changed = {name for name, pid in background.pids().items() if before[name] != pid}
    assert changed == {"manager", "coordinator", "proxy", "proplet-1"}
    subscribed = [line for line in background.run("logs", "proplet").stdout.splitlines() if "subscribe" in line]
    assert subscribed
    assert all(channel in line for line in subscribed)  # the guide looks at the first of them
    assert (background.state / "logs" / "proplet-1.old").exists()


def test_up_with_other_ports_than_the_running_ones_is_refused_with_the_reason(background):
    done = background.run("up", "-d", "--port-offset", "1")
    assert done.returncode == 1
    assert f"the stack runs with --port-offset {background.offset}, not 1" in done.stderr
    assert "swashplate down" in done.stderr


def test_the_ports_of_a_stack_in_the_background_are_named_as_its_own(background, tmp_path):
    second = Background(tmp_path)
    second.offset = background.offset
    done = second.up()
    assert done.returncode == 1
    assert f"or kill {background.owner()}, or move every port" in done.stderr


def test_a_stopped_broker_stays_down_is_told_by_those_that_need_it_and_comes_back(background):
    assert background.run("stop", "mqtt-adapter").stdout == "stopped broker\n"
    status, health = poll(lambda: (found := background.curl("manager", "/health"))[0] == 503 and found)
    assert (status, list(health["down"])) == (503, ["broker"])
    shown = background.run("ps", "broker", "manager")
    assert shown.returncode == 1
    assert re.search(r"broker +stopped", shown.stdout)
    assert "proxy" not in shown.stdout
    assert background.run("start", "broker").stdout == "started broker\n"
    poll(lambda: background.run("status").returncode == 0)


def test_restart_gives_a_new_process_and_leaves_the_others(background):
    before = background.pids()
    done = background.run("restart", "local-data-store", "data-store", "model-registry")
    after = background.pids()
    assert done.returncode == 0, done.stderr
    assert {name for name in before if before[name] != after[name]} == {"data-store", "model-registry"}
    assert background.curl("data-store", "/health")[0] == 200


def test_without_the_manager_the_state_of_the_proplets_is_unknown(background):
    background.run("stop", "manager")
    health = background.described()["health"]
    assert health["manager"] == "stopped"
    assert health["proplet-1"].startswith("unknown: ")
    assert background.run("start", "manager").returncode == 0


def test_up_starts_what_was_stopped(background):
    background.run("stop", "aggregator")
    assert "aggregator" not in background.pids()
    done = background.up()
    assert "started aggregator" in done.stderr.splitlines()
    assert background.curl("aggregator", "/health")[0] == 200


@pytest.mark.parametrize("command", ["stop", "start", "restart", "logs", "status"])
def test_an_unknown_service_is_an_error_that_lists_the_names(background, command):
    done = background.run(command, "mangaer")
    assert done.returncode == 1
    assert "there is no service 'mangaer'" in done.stderr
    assert all(name in done.stderr for name in ("manager", "model-registry", "proplet-1"))


def test_logs_are_the_lines_of_the_files_and_of_several_services_named(background):
    assert background.run("logs", "manager").stdout == (background.state / "logs" / "manager.log").read_text()
    assert background.run("logs", "coordinator-http", "--tail", "1").stdout.count("\n") == 1
    both = background.run("logs", "manager", "proplet").stdout.splitlines()
    assert {line.split(" | ")[0].strip() for line in both} == {"manager", "proplet-1"}
    times = [json.loads(line.partition(" | ")[2])["time"] for line in both]
    assert times == sorted(times)


def test_followed_logs_go_on_over_a_restart_and_end_with_ctrl_c(background):
    reader = background.begin("logs", "-f", "--tail", "0", "aggregator")
    try:
        poll(lambda: Path(f"/proc/{reader.pid}/fd").exists() and "aggregator.log" in open_files(reader.pid))
        background.run("restart", "aggregator")
        assert "serving HTTP" in reader.stdout.readline()
        background.run("restart", "aggregator")
        assert "serving HTTP" in reader.stdout.readline()
        reader.send_signal(signal.SIGINT)
        assert reader.wait(10) == 0
        assert reader.stdout.read() == ""
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()


def open_files(pid: int) -> set[str]:
    found = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(handle.readlink().name)
    return found


def test_followed_logs_end_when_nobody_reads_them_any_more(background):
    reader = background.begin("logs", "-f", "--tail", "1", "aggregator")
    try:
        assert reader.stdout.readline()
        reader.stdout.close()  # as `| head -1` does; no further line is written
        assert reader.wait(10) == 0
    finally:
        reader.kill()
        reader.wait()


def test_the_socket_is_for_the_owner_and_survives_nonsense(background):
    path = background.state / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    for nonsense in (
        b"\n",
        b"{}\n",
        b"[" * 200_000 + b"\n",
        b'{"do":"apply","options":{"proplets":"x"}}\n',
        b"\xff\n",
        b"",
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            handle = os.open(background.state, os.O_RDONLY)
            connection.connect(f"/proc/self/fd/{handle}/control.sock")
            os.close(handle)
            connection.settimeout(10)
            with contextlib.suppress(OSError):
                connection.sendall(nonsense)
                connection.shutdown(socket.SHUT_WR)
                assert b'"error"' in connection.recv(10_000)
    assert background.run("status").returncode == 0


def test_killed_it_leaves_no_child_and_its_socket_hinders_nobody(background):
    children = background.pids()
    owner = background.described()["pid"]
    os.kill(owner, signal.SIGKILL)
    poll(lambda: not any(alive(pid) for pid in (owner, *children.values())), within=5)
    assert (background.state / "control.sock").exists()
    assert "no stack is running" in background.run("stop", "manager").stderr
    assert background.run("logs", "manager", "--tail", "1").stdout  # the files are still there
    assert background.up().returncode == 0
    assert background.run("down").returncode == 0
    assert not (background.state / "control.sock").exists()


def test_a_folder_may_have_packages_of_the_same_names(tmp_path, nats_server):
    for name in ("provision", "swashplate", "manager", "proxy", "proplet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not this one')\n")
    stack = Background(tmp_path)
    command = [str(Path(sys.executable).with_name("swashplate")), "up", "-d", "--proplets", "1"]
    command += ["--port-offset", str(stack.offset), "--state-dir", str(stack.state)]
    try:
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env=stack.environment
        )
    finally:
        stack.run("down")
    assert done.returncode == 0, done.stderr


def test_a_start_that_fails_says_why_and_leaves_nothing_running(tmp_path, nats_server):
    stack = Background(tmp_path)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 8085 + stack.offset))
        holder.listen()
        done = stack.up()
    assert done.returncode == 1
    assert f"port {8085 + stack.offset} is taken by" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no stack is running" in stack.run("status").stderr
    assert not (stack.state / "control.sock").exists()
