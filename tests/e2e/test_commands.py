"""The commands that speak to a manager, as a user types them, on a running stack."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from swashplate.client import SyncClient
from tests.support.shell import EXAMPLES
from tests.support.stack import poll
from tests.support.wat import SPIN


def test_a_function_runs_and_its_result_alone_is_on_stdout(shell):
    with shell.begin("run", "examples/add.wasm", "--invoke", "add", "2", "40", "--wait") as running:
        result, said = running.communicate(timeout=60)
    assert (running.returncode, result) == (0, "42\n")
    assert "completed on" in said
    assert "\x1b" not in said
    quiet = shell.run("run", "examples/hello.wasm", "you", "--env", "A=1", "--on", shell.stack.proplets[1], "-q")
    assert (quiet.stdout, quiet.stderr) == ("hello you\n", "")


def test_a_failure_is_told_on_stderr_and_by_the_exit_status(shell):
    done = shell.run("run", "examples/add.wasm", "--invoke", "div", "1", "0", status=1)
    assert done.stdout == ""
    assert "wasm trap: integer divide by zero [trap:integer_divide_by_zero]" in done.stderr
    document = shell.json("run", "examples/add.wasm", "--invoke", "div", "1", "0", status=1)
    assert (document["status"], document["code"]) == ("failed", "trap:integer_divide_by_zero")


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


def test_a_workflow_with_a_failing_branch_ends_as_declared_and_is_drawn(shell):
    done = shell.run("workflow", "create", "examples/workflow.yaml", "--start", "--wait", "--name", uuid.uuid4().hex)
    drawn = [line.split(" · ")[0] for line in done.stdout.splitlines()]
    assert [line.rpartition("─ ")[2].split("  ")[:2] for line in drawn[1:]] == [
        ["● measure", "completed"],
        ["● summary", "completed"],
        ["✗ ratio", "failed"],
        ["⊘ report", "skipped"],
        ["● alarm", "completed"],
    ]
    assert [line.index("─ ") // 4 for line in drawn[1:]] == [0, 1, 1, 2, 2]
    assert "ratio, which failed · also after summary" in done.stdout
    assert "ratio: failed: wasm trap: integer divide by zero" in done.stderr.splitlines()


def test_a_job_runs_and_a_failed_one_fails_the_command(shell):
    done = shell.json("job", "create", "examples/job.yaml", "--start", "--wait")
    assert [task["results"] for task in done["tasks"]] == ["3", "7", "hello world\n"]
    (shell.folder / "bad.json").write_text(
        json.dumps([{"name": "bad", "file": "examples/add.wasm", "invoke": "div", "inputs": [1, 0]}])
    )
    failed = shell.run("job", "create", "bad.json", "--start", "--wait", status=1)
    assert "✗ bad  failed" in failed.stdout


def test_a_latent_task_is_called_when_it_is_ready(shell):
    name = f"adder-{uuid.uuid4().hex[:8]}"
    said = shell.run("run", "examples/add.wasm", "--invoke", "add", "--latent", "--name", name)
    assert "is ready on" in said.stderr
    called = shell.run("task", "invoke", name, "2", "40")
    assert called.stdout == "42\n"
    assert "completed (used " in called.stderr
    assert shell.json("task", "invoke", name, "2", "40")["report"]["limits"]["wall_s"] > 0
    assert shell.run("task", "invoke", "-q", name, "2", "40").stderr == ""
    with SyncClient(shell.stack.url("manager")) as manager:
        task = next(task for task in manager.tasks.every(name=name) if task.name == name)
        assert manager.tasks.invoke(task.id, [3, 4]).results == "7"
        later = manager.tasks.submit(task.id, [5, 6])
        assert manager.tasks.wait_invocation(task.id, later.invocation_id, timeout=30).results == "11"
        assert manager.tasks.invocations(task.id).total == 5
    assert "got 1 input" in shell.run("task", "invoke", name, "2", status=1).stderr
    shell.run("task", "stop", name)


def test_a_cordoned_proplet_is_shown_as_one(shell):
    proplet = shell.stack.proplets[-1]
    try:
        assert "takes no new work" in shell.run("proplet", "cordon", proplet).stderr
        row = next(line for line in shell.run("proplet", "list").stdout.splitlines() if line.startswith(proplet))
        assert row.split()[2] == "cordoned"
    finally:
        shell.run("proplet", "uncordon", proplet)
    assert not shell.json("proplet", "show", proplet)["cordoned"]


def test_a_shell_completes_commands_and_ids(shell):
    task_id = shell.run("task", "create", "completed", "--file", "examples/add.wasm").stdout.strip()

    def offered(line: str) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("_SWASHPLATE_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", line)
            patch.setenv("COMP_CWORD", str(line.count(" ")))
            return shell.run().stdout.split()

    assert "workflow" in offered("swashplate wor")
    assert task_id in offered(f"swashplate task show {task_id[:4]}")
    assert offered("swashplate run x.wasm --on ") == sorted(shell.stack.proplets)
    assert "complete -" in shell.run("completion", "bash").stdout


def test_the_committed_examples_are_what_their_sources_compile_to(tmp_path):
    copied = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copied, ignore=shutil.ignore_patterns("*.wasm", "guests"))
    subprocess.run([sys.executable, str(copied / "build.py")], check=True)
    assert binaries(copied) == binaries(EXAMPLES)


def binaries(folder: Path) -> dict[str, bytes]:
    """But for those of other languages, which their own toolchains build."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*.wasm")}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("guests/")}
