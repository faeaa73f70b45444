"""docs/guide.md as it stands: its commands, in its order, on its ports, print what it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate import ports
from swashplate.stack import services
from swashplate.stack.environment import without_roles
from tests.conftest import missing
from tests.support.netns import isolated

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("client_wasm", "provision", "docs", "compose.yaml", ".env.example", "test-e2e.sh")
PROGRAMS = ("curl", "jq", "mosquitto_pub")


@pytest.fixture
def repository(tmp_path):
    """A copy, because ``.env`` and the state are kept beside it."""
    root = tmp_path / "swashplate"
    root.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, root / name)
    return root


def environment(home: Path) -> dict[str, str]:
    inherited = without_roles(os.environ)
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    own = {
        "PATH": path,
        "HOME": str(home),
        "SWASHPLATE_BROKER": "mosquitto",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
    }
    return {**inherited, **own}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("guest", ["c", "go"])
def test_the_guide_word_for_word(guest, repository, tmp_path, mosquitto):
    for program in (*PROGRAMS, *(["go"] if guest == "go" else [])):
        if shutil.which(program, path=environment(tmp_path)["PATH"]) is None:
            missing(f"{program} is not installed")
    prefix = isolated()
    if prefix is None and not all(
        ports.is_free(port) for port in (*services.ALL_PORTS, services.COORDINATOR_SECOND_PORT)
    ):
        missing("no network namespace can be made, and the default ports are taken")
    env = environment(tmp_path)
    inside = [*(prefix or []), sys.executable]
    try:
        done = subprocess.run(
            [*inside, str(ROOT / "scripts" / "run_guide.py"), "up", guest, str(repository / "docs" / "guide.md")],
            cwd=repository,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:  # `up -d` outlives the script that failed
        down = [*inside, "-m", "swashplate", "down"]
        subprocess.run(down, cwd=repository, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "mosquitto version" in (repository / ".swashplate" / "logs" / "broker.log").read_text()
    everything = "\n".join(path.read_text() for path in (repository / ".swashplate" / "logs").glob("*.log"))
    for phrase in ("will use synthetic data", "Failed to fetch dataset", "using synthetic data", "Dataset missing"):
        assert phrase not in everything
