"""The example guests of several languages, unchanged, in a real proplet; and that they are what their sources build to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUESTS = Path(__file__).resolve().parents[2] / "examples" / "guests"
WORDS = {"site": 'the "north"', "words": {"and": 1, "ça": 1, "one": 2}}
FUNCTIONS = [
    ("greet", ["you"], '"hello, you"'),
    ("greet", ['"\\u{e9}"'], '"hello, é"'),
    ("example:greeter/statistics#summarize", ["[1, 2, 4.5]"], "ok({count: 3, mean: 2.5})"),
    ("summarize", ["[]"], 'err("there are no values")'),
]


def called(*functions):
    return [({"cli_args": ["--invoke", name], "inputs": inputs}, results) for name, inputs, results in functions]


CALLS = {
    "rust/words.wasm": [({"inputs": ["one and", "One, ça!"], "env": {"SITE": 'the "north"'}}, WORDS)],
    "assemblyscript/statistics.wasm": called(
        ("fibonacci", ["90"], "2880067194370816120"),
        ("hypotenuse", ["3", "4"], "5.0"),
        ("mix", ["0", "1", "0.1"], "0.1"),
    ),
    "c/greeter.wasm": [*called(*FUNCTIONS), ({}, "hello from a component\n")],
}


async def check(world, content, calls):
    for fields, results in calls:
        told = await world.manager.outcome(world.start(content, **fields))
        assert (told.results, told.error) == (results, None)


async def test_the_committed_guests_run(world, proplet):
    for path, calls in CALLS.items():
        await check(world, (GUESTS / path).read_bytes(), calls)


async def test_a_command_in_rust_fails_with_its_status_and_its_reason(world, proplet, logged):
    told = await world.manager.outcome(world.start((GUESTS / "rust/words.wasm").read_bytes()))
    assert told.code == "guest_exit"
    assert told.error.startswith("process exited with status 2")
    assert await logged.until("usage: words TEXT...")


async def test_a_component_is_deployed_once_and_called_with_other_values(world, proplet):
    component = (GUESTS / "c/greeter.wasm").read_bytes()
    start = world.start(component, name="greet", inputs=["you"], latent=True, timeout_s=None)
    await world.manager.ready(start)
    assert (await world.manager.called(start.id)).results == '"hello, you"'
    assert (await world.manager.called(start.id, inputs=["all"])).results == '"hello, all"'
    assert (await world.manager.called(start.id, inputs=["a", "b"])).code == "invalid_inputs"


def built(name: str, folder: Path) -> bytes:
    """Fails where CI should have the tools."""
    command = [sys.executable, str(GUESTS / "build.py"), name, "--into", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == os.EX_UNAVAILABLE and os.environ.get("CI") != "true":
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    [path] = (folder / name).glob("*.wasm")
    return path.read_bytes()


@pytest.mark.guests
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", ["c/greeter.wasm", "assemblyscript/statistics.wasm"])
def test_a_guest_is_what_its_source_builds_to(path, tmp_path):
    assert built(Path(path).parent.name, tmp_path) == (GUESTS / path).read_bytes()


@pytest.mark.guests
@pytest.mark.timeout(600)
async def test_rust_as_it_is_here_builds_a_guest(world, proplet, tmp_path):
    await check(world, built("rust", tmp_path), CALLS["rust/words.wasm"])


@pytest.mark.guests
@pytest.mark.timeout(600)
async def test_a_component_in_python_does_the_same_as_the_one_in_c(world, proplet, tmp_path, monkeypatch):
    monkeypatch.setitem(type(world.manager).until.__globals__, "PATIENCE", 300)  # 18 MB are compiled
    calls = [({**fields, "timeout_s": 300.0}, results) for fields, results in called(*FUNCTIONS)]
    await check(world, built("python", tmp_path), calls)
