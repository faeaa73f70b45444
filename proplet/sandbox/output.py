"""What a run has written: its stdout and its ``/out``, measured and held against the limits."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from proplet.sandbox import tree
from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Job, Limits


@dataclass(frozen=True)
class Output:
    """``size`` in bytes of stdout and of ``/out`` on disk; ``entries`` are the files and directories of ``/out``."""

    size: int
    entries: int

    @property
    def used(self) -> dict[str, float]:
        return {"output_bytes": self.size, "output_files": self.entries}

    def check(self, limits: Limits) -> None:
        """Raises ``GuestError``."""
        if self.entries > limits.files:
            raise GuestError(
                f"the output is over the limit of {limits.files} files and directories", "file_limit", reusable=False
            )
        if self.size > limits.output:
            raise GuestError(
                f"the output of {self.size} bytes is over the limit of {limits.output} bytes",
                "output_limit",
                reusable=False,
            )


def measured(job: Job) -> Output:
    """Counts no further than one entry over the limit. Raises ``GuestError`` for what cannot be measured."""
    printed = 0
    try:
        with contextlib.suppress(FileNotFoundError):
            printed = os.stat(f"{job.folder}/stdout").st_size  # noqa: PTH116  # once a run: a Path costs five times that
        with os.scandir(f"{job.folder}/out") as listed:
            if next(listed, None) is None:
                return Output(printed, 0)
        found = tree.measure(Path(f"{job.folder}/out"), job.limits.files)
    except Exception as error:  # a guest must not get rid of its limit, by whatever error
        raise GuestError(
            f"the output cannot be measured: {error or type(error).__name__}", "output_limit", reusable=False
        ) from error
    return Output(printed + found.size, found.entries)
