"""The commands that speak to a manager, as a user types them, on a running stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from swashplate.stack.environment import without_roles
from tests.support.stack import poll
from tests.support.wat import SPIN

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Shell:
    """``swashplate …`` in a folder where the stack is found as ``./.swashplate``, like after ``swashplate up``."""

    def __init__(self, stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        (folder / ".swashplate").symlink_to(stack.state)
        (folder / "examples").symlink_to(EXAMPLES)
        self._options = {
            "cwd": folder,
            "text": True,
            "env": {k: v for k, v in without_roles(os.environ).items() if not k.endswith("MANAGER_URL")},
        }

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "swashplate", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **self._options)

    def run(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "swashplate", *words]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60, **self._options)
        assert done.returncode == status, done
        return done

    def json(self, *words: str, status: int = 0):
        return json.loads(self.run(*words, "--json", status=status).stdout)

    def task_named(self, name: str):
        return next((t for t in self.stack.get("manager", "/tasks")["tasks"] if t["name"] == name), None)


@pytest.fixture
def shell(stack, tmp_path):
    return Shell(stack, tmp_path)


def test_a_function_runs_and_its_result_alone_is_on_stdout(shell):
    done = shell.run("run", "examples/add.wasm", "--invoke", "add", "2", "40", "--wait")
    assert done.stdout == "42\n"
    assert "completed on" in done.stderr
    assert "\x1b" not in done.stderr
    quiet = shell.run("run", "examples/hello.wasm", "you", "--env", "A=1", "--on", shell.stack.proplets[1], "-q")
    assert (quiet.stdout, quiet.stderr) == ("hello you\n", "")


def test_a_failure_is_told_on_stderr_and_by_the_exit_status(shell):
    done = shell.run("run", "examples/add.wasm", "--invoke", "div", "1", "0", status=1)
    assert done.stdout == ""
    assert "wasm trap: integer divide by zero [guest_trap]" in done.stderr
    document = shell.json("run", "examples/add.wasm", "--invoke", "div", "1", "0", status=1)
    assert (document["status"], document["code"]) == ("failed", "guest_trap")


def test_a_detached_task_is_found_again_by_the_beginning_of_its_id_and_by_its_name(shell):
    name = f"greeting-{uuid.uuid4().hex[:8]}"
    task_id = shell.run("run", "examples/hello.wasm", "there", "--name", name, "--detach").stdout.strip()
    assert shell.run("task", "results", task_id[:13], "--wait").stdout == "hello there\n"
    assert shell.json("task", "show", name)["id"] == task_id
    assert shell.json("task", "attempts", task_id)["attempts"][0]["status"] == "completed"
    assert shell.run("task", "logs", task_id).stdout == "greeting\n"
    listed = shell.run("task", "list").stdout
    row = next(line for line in listed.splitlines() if line.startswith(task_id))
    assert row.split()[1:3] == [name, "completed"]
    assert "\x1b" not in listed


def test_what_ctrl_c_leaves_running_is_told_and_with_an_option_nothing_is_left(shell):
    (shell.folder / "spin.wasm").write_bytes(SPIN)

    def interrupted(*options: str) -> tuple[str, str]:
        name = f"spin-{uuid.uuid4().hex[:8]}"
        with shell.begin("run", "spin.wasm", "--name", name, *options) as running:
            poll(lambda: (task := shell.task_named(name)) and task["status"] == "running")
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=30)
        assert running.returncode == 130
        assert "Traceback" not in said
        return shell.task_named(name)["id"], said

    task_id, said = interrupted()
    assert f"interrupted; task {task_id} goes on" in said
    assert shell.json("task", "show", task_id)["status"] == "running"
    shell.run("task", "stop", task_id)
    assert shell.stack.task_ended(task_id)["status"] == "interrupted"

    task_id, said = interrupted("--stop-on-interrupt")
    assert f"stopping task {task_id}" in said
    assert shell.stack.task_ended(task_id)["status"] == "interrupted"


def test_a_task_that_is_followed_ends_though_the_manager_is_killed_meanwhile(shell):
    (shell.folder / "spin.wasm").write_bytes(SPIN)
    name = f"spin-{uuid.uuid4().hex[:8]}"
    with shell.begin("run", "spin.wasm", "--name", name) as running:
        poll(lambda: (task := shell.task_named(name)) and task["status"] == "running")
        shell.stack.kill("manager")
        assert running.stderr.readline().startswith("task ")
        task_id = poll(lambda: _quietly(lambda: shell.task_named(name)["id"]))
        poll(lambda: _quietly(lambda: shell.stack.call("POST", f"{shell.stack.url('manager')}/tasks/{task_id}/stop")))
        _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"task {task_id} interrupted after" in said


def _quietly(question):
    try:
        return question()
    except (OSError, StopIteration):
        return None


def test_wrong_usage_and_a_manager_that_is_not_there_are_told_apart(shell):
    assert "Missing argument" in shell.run("task", "show", status=2).stderr
    assert "KEY=VALUE" in shell.run("run", "examples/add.wasm", "--env", "A", status=2).stderr
    nobody = shell.run("task", "list", "--manager", "http://127.0.0.1:9", status=1).stderr
    assert nobody.splitlines() == [
        "error: no answer from the manager at http://127.0.0.1:9: Connection refused",
        "hint: is it running there? swashplate up starts one",
    ]
    assert "ws://x" in shell.run("proplet", "list", "-m", "ws://x", status=1).stderr


def test_proplets_are_listed_and_shown(shell):
    known = shell.json("proplet", "list")["proplets"]
    assert {each["id"] for each in known} >= set(shell.stack.proplets)
    first = shell.stack.proplets[0]
    assert first in shell.run("proplet", "show", first[:13]).stdout


def test_a_shell_completes_commands_and_ids(shell):
    task_id = shell.run("task", "create", "completed", "--file", "examples/add.wasm").stdout.strip()

    def offered(line: str) -> list[str]:
        words = line.split(" ")
        environment = {"_SWASHPLATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        command = [sys.executable, "-m", "swashplate"]
        options = {**shell._options, "env": {**shell._options["env"], **environment}}
        return subprocess.run(command, capture_output=True, check=True, timeout=60, **options).stdout.split()

    assert "workflow" in offered("swashplate wor")
    assert task_id in offered(f"swashplate task show {task_id[:4]}")
    assert offered("swashplate run x.wasm --on ") == sorted(shell.stack.proplets)
    assert "complete -" in shell.run("completion", "bash").stdout


def test_the_committed_examples_are_what_their_sources_compile_to(tmp_path):
    for source in EXAMPLES.glob("*.wat"):
        (tmp_path / source.name).write_text(source.read_text())
    (tmp_path / "build.py").write_text((EXAMPLES / "build.py").read_text())
    subprocess.run([sys.executable, str(tmp_path / "build.py")], check=True)
    built = {path.name: path.read_bytes() for path in tmp_path.glob("*.wasm")}
    assert built == {path.name: path.read_bytes() for path in EXAMPLES.glob("*.wasm")}
