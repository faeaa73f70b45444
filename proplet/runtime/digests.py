"""What a deterministic run depended on, and what it gave: equal digests on any machine for equal inputs and outputs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from proplet.runtime.task_folder import TaskFolder
from proplet.sandbox import tree
from proplet.sandbox.frames import Job

OF_THE_TASK = frozenset({"TASK_ID", "PROPLET_ID"})
"""Variables that say who runs, not what."""


def of_inputs(job: Job, folder: TaskFolder) -> str:
    """Of the binary, its arguments, its environment and the files of ``/in``, but for what only names the task.

    Directories that the policy grants are not looked into. Reads every file: not in the event loop.
    """
    return _digest(
        {
            "binary": job.digest,
            "name": job.name,
            "inputs": job.inputs,
            "cli_args": job.cli_args,
            "env": {name: value for name, value in job.env.items() if name not in OF_THE_TASK},
            "seed": job.seed,
            "clock": job.clock,
            "random": job.random,
            "files": {name: found for name, found in _files(folder.path / "in").items() if name != "task.json"},
        }
    )


def of_output(text: str | None, folder: TaskFolder) -> str:
    """Of what a function returned, of stdout and of the files in ``/out``. Reads every file: not in the event loop."""
    printed = folder.path / "stdout"  # no guest can reach it
    stdout = hashlib.sha256(printed.read_bytes() if printed.exists() else b"").hexdigest()
    return _digest({"returned": text, "stdout": stdout, "files": _files(folder.path / "out")})


def _digest(what: dict[str, Any]) -> str:
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _files(top: Path) -> dict[str, str]:
    """The sha256 of each regular file below ``top``, by its path; no link is followed."""
    found = {}
    for path, handle in tree.files(top):
        with os.fdopen(handle, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
