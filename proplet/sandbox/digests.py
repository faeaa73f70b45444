"""What a deterministic run depended on, and what it gave, each as one sha256 that two machines can compare.

Only for deterministic runs: for others equal inputs promise nothing, and hashing a dataset costs more than a short task.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from proplet.sandbox.frames import Job

LONGEST_PATH = 2048
"""Bytes below ``/in`` or ``/out``; what is deeper has no digest."""


class NoDigestError(Exception):
    """It would cost more than a run may."""


def of_inputs(job: Job) -> str:
    """The binary, how it is called, and every file that it can read; empty when one cannot be read here."""
    try:
        files = _files(Path(job.folder) / "in", None)
        directories = sorted([guest, write, _files(Path(here), None)] for here, guest, write in job.directories)
    except (NoDigestError, OSError):
        return ""
    asked = {
        "binary": job.digest,
        "name": job.name,
        "inputs": job.inputs,
        "cli_args": job.cli_args,
        "env": dict(sorted(job.env.items())),
        "seed": job.seed,
        "clock": job.clock,
        "random": job.random,
        "directories": directories,
        "files": files,
    }
    return _digest(asked)


def of_output(job: Job, text: str | None, error: str, code: str) -> str:
    """How it ended, what it returned and printed, and every file in ``/out``; empty when that is more than a run may write."""
    folder = Path(job.folder)
    stdout = folder / "stdout"
    try:
        given = {
            "error": error,
            "code": code,
            "returned": text,
            "stdout": _content(stdout) if stdout.exists() else _bytes_digest(b""),
            "files": _files(folder / "out", job.limits.output),
        }
    except (NoDigestError, OSError):
        return ""
    return _digest(given)


def _digest(document: dict[str, Any]) -> str:
    """Of JSON with sorted names, without spaces, in ASCII."""
    return _bytes_digest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _bytes_digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _files(top: Path, most: int | None) -> list[list[Any]]:
    """``[path, kind, size, content's digest or link's target]``, in the order of the paths' bytes.

    ``most`` are the bytes that may be read: a file with a hole in it is longer than what it takes on disk.
    """
    found: list[tuple[bytes, list[Any]]] = []
    left, pending = most, [b""]
    base = os.fsencode(top)
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(base, folder)) as listed:  # noqa: PTH118  # a guest's names are bytes
            entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in listed]
        for name, status in entries:
            path = os.path.join(folder, name)  # noqa: PTH118
            if len(path) > LONGEST_PATH:
                raise NoDigestError
            whole, kind = Path(os.fsdecode(os.path.join(base, path))), status.st_mode  # noqa: PTH118
            if stat.S_ISDIR(kind):
                pending.append(path)
                described = ["directory", 0, ""]
            elif stat.S_ISREG(kind):
                if left is not None and (left := left - status.st_size) < 0:
                    raise NoDigestError
                described = ["file", status.st_size, _content(whole)]
            elif stat.S_ISLNK(kind):
                described = ["link", 0, str(whole.readlink())]
            else:
                raise NoDigestError
            found.append((path, [os.fsdecode(path), *described]))
    return [described for _, described in sorted(found)]
