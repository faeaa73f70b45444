"""``swashplate …`` as it is typed where a stack runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from swashplate.cli import main
from swashplate.stack.environment import without_roles

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


class Shell:
    """``swashplate …`` in a folder where the stack is found as ``./.swashplate``, like after ``swashplate up``.

    Commands run in this process, which spares each its start; ``begin`` gives one a process of its own.
    """

    def __init__(self, stack, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.stack = stack
        self.folder = folder
        (folder / ".swashplate").symlink_to(stack.state)
        (folder / "examples").symlink_to(EXAMPLES)
        self._patch = patch
        self._capture = capture
        patch.chdir(folder)
        for name in {*os.environ} - {*without_roles(os.environ)}:
            patch.delenv(name)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "swashplate", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words: str, status: int = 0) -> Done:
        self._patch.setattr(sys, "argv", ["swashplate", *words])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        done = Done(*self._capture.readouterr())
        assert end.value.code == status, done
        return done

    def json(self, *words: str, status: int = 0):
        return json.loads(self.run(*words, "--json", status=status).stdout)

    def task_named(self, name: str):
        return next((t for t in self.stack.get("manager", "/tasks")["tasks"] if t["name"] == name), None)
