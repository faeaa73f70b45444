"""``./test-e2e.sh``: from anywhere it passes where all is well, and otherwise ends and names what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate.stack import control
from swashplate.stack.environment import without_roles

SCRIPT = Path(__file__).resolve().parents[2] / "test-e2e.sh"


def run(stack, *more: str, env_file: Path | str | None = None, folder: Path | None = None) -> tuple[int, str]:
    """Exit status, and the last line of what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [str(SCRIPT), "--state-dir", str(stack.state), "--env-file", str(env_file or stack.env_file), *more]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**without_roles(os.environ), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1]


def test_it_passes_from_another_folder(stack):
    status, last = run(stack, env_file=stack.env_file.name, folder=stack.folder)
    assert status == 0, last
    assert last.startswith("✓ all good")


def test_a_missing_env_file_is_named(stack, tmp_path):
    status, last = run(stack, env_file="absent", folder=tmp_path)
    assert status == 1
    assert f"{tmp_path}/absent cannot be read" in last


def test_a_stopped_proxy_is_named(stack):
    def ask(do: str) -> None:
        control.ask(stack.state, control.Request(do=do, services=["proxy"]), lambda _: None)

    ask("stop")
    try:
        status, last = run(stack)
    finally:
        ask("start")
    assert status == 1
    assert last.startswith("✗ proxy does not answer")


def test_a_round_that_fails_is_told_with_its_reason(stack):
    status, last = run(stack, "--image", "local-registry/Upper:latest")
    assert status == 1
    assert "Upper" in last
    assert "lower case" in last


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("PROPLET_CLIENT_ID=proplet-1\nPROPLET_2_CLIENT_ID=b\nPROPLET_3_CLIENT_ID=c\n", "proplet-1"),
        ('PROPLET_CLIENT_ID=""\n', "PROPLET_CLIENT_ID is not set"),
    ],
)
def test_ids_that_are_none_are_told_before_a_round_is_tried(stack, tmp_path, text, named):
    env_file = tmp_path / ".env"
    env_file.write_text(text)
    status, last = run(stack, env_file=env_file)
    assert status == 1
    assert named in last


def test_without_a_stack_it_says_how_to_start_one(stack, tmp_path):
    status, last = run(stack, "--up", "--state-dir", str(tmp_path))
    assert status == 1
    assert "swashplate up -d" in last


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (["--compose"], "docker compose is not installed"),
        (["--up"], "the command swashplate is not found"),
        ([], "the command swashplate is not found"),
    ],
)
def test_a_missing_program_is_named_and_how_to_have_it(tmp_path, way, reason):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "dirname", "curl", "python3", "grep"):
        (programs / name).symlink_to(shutil.which(name))
    script = shutil.copy(SCRIPT, tmp_path)
    (tmp_path / ".env").touch()
    done = subprocess.run([script, *way], env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
