"""docs/guide.md as it stands: its commands, in its order, on its ports, print what it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swashplate import layout, ports
from tests.support.netns import isolated

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("client_wasm", "provision", "docs", "compose.yaml", ".env.example", "test-e2e.sh")
PROGRAMS = ("curl", "jq", "mosquitto_pub")


def absent(reason: str) -> None:
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture
def repository(tmp_path):
    """A copy, because ``.env`` and the state are kept beside it."""
    root = tmp_path / "swashplate"
    root.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "go/fl-client.wasm"))
        else:
            shutil.copy2(source, root / name)
    return root


def environment(broker: str, home: Path) -> dict[str, str]:
    inherited = layout.without_roles(os.environ)
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    own = {"PATH": path, "HOME": str(home), "SWASHPLATE_BROKER": broker, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    return {**inherited, **own}


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("guest", "broker"), [("c", "mosquitto"), ("go", "mosquitto"), ("c", "embedded")])
def test_the_guide_word_for_word(guest, broker, repository, tmp_path, nats_server):
    for program in (*PROGRAMS, *(["mosquitto"] if broker == "mosquitto" else []), *(["go"] if guest == "go" else [])):
        found = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
        if found is None:
            absent(f"{program} is not installed")
    prefix = isolated()
    if prefix is None and not all(ports.is_free(port) for port in (*layout.PORTS.values(), 8080)):
        absent("no network namespace can be made, and the default ports are taken")
    env = environment(broker, tmp_path)
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
    program = {"mosquitto": "mosquitto version", "embedded": "nats-server"}[broker]
    assert program in (repository / ".swashplate" / "logs" / "broker.log").read_text()
    everything = "\n".join(path.read_text() for path in (repository / ".swashplate" / "logs").glob("*.log"))
    for phrase in ("will use synthetic data", "Failed to fetch dataset", "using synthetic data", "Dataset missing"):
        assert phrase not in everything
