"""``./test-e2e.sh``: from anywhere it passes where all is well, and otherwise ends at once and names what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate import control, layout

SCRIPT = Path(__file__).resolve().parents[2] / "test-e2e.sh"


def run(stack, folder, *, env_file=None):
    arguments = ["--up", "--env-file", str(env_file or stack.env_file), "--state-dir", str(stack.state)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**layout.without_roles(os.environ), "PATH": path}
    return subprocess.run(
        [SCRIPT, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_it_passes_from_another_folder(stack):
    done = run(stack, stack.folder, env_file=stack.env_file.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weighted mean of 3 updates" in done.stdout


def test_a_stopped_proxy_is_named(stack, tmp_path):
    control.ask(stack.state, control.Request(do="stop", services=["proxy"]), lambda _: None)
    try:
        done = run(stack, tmp_path)
    finally:
        control.ask(stack.state, control.Request(do="start", services=["proxy"]), lambda _: None)
    assert done.returncode == 1
    assert "proxy does not answer" in done.stderr


def test_a_missing_env_file_is_named_before_anything_is_done(stack, tmp_path):
    done = run(stack, tmp_path, env_file=tmp_path / "absent")
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{tmp_path}/absent cannot be read" in done.stderr


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
