"""The table of examples/hostile/README.md, typed as it stands there, in one stack."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.support.shell import EXAMPLES

ROW = re.compile(r"\| \[(.+?)\]\(.+?\) \| .+? \| `swashplate (.+?)` \| (.+) \|")
FIRST = "compile-bomb"
"""Begun before the others, as it takes as long as all of them."""


def rows() -> list[tuple[str, str, list[str]]]:
    """Of each: its name, its command, and what must be printed."""
    found = ROW.findall((EXAMPLES / "hostile" / "README.md").read_text())
    return [(name, command, re.findall("`(.+?)`", printed)) for name, command, printed in found]


def test_every_hostile_example_is_in_the_table():
    assert [name for name, _, _ in rows()] == sorted(path.stem for path in EXAMPLES.glob("hostile/*.wasm"))


@pytest.mark.timeout(180)
def test_every_hostile_example_ends_with_one_clear_line_and_no_proplet_is_worse_for_it(shell):
    commands = {name: (command, printed) for name, command, printed in rows()}
    slow, expected = commands.pop(FIRST)
    with shell.begin(*shlex.split(slow)) as running:
        for name, (command, printed) in commands.items():
            done = shell.run(*shlex.split(command), status=1)
            assert_told(name, done.stdout, done.stderr, printed)
        stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 1
    assert_told(FIRST, stdout, stderr, expected)
    assert "compiling on" in stderr
    assert {proplet["alive"] for proplet in shell.stack.get("manager", "/proplets")["proplets"]} == {True}
    assert shell.run("run", "examples/hello.wasm", "still here", "-q").stdout == "hello still here\n"
    status = shell.run("status").stdout
    assert re.findall(r"proplet-\d+ +(\S+)", status) == ["alive"] * len(shell.stack.proplets), status


def assert_told(name: str, stdout: str, stderr: str, printed: list[str]) -> None:
    assert stdout == "", name
    [line] = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert all(words in line for words in printed if words != "--limit"), (name, line)
    assert "Traceback" not in stderr
