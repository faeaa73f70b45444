"""What a run has written: its stdout and its ``/out``, measured and held against the limits."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from proplet.sandbox import tree
from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Job, Limits

STDERR = 2


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


NOTHING = Output(0, 0)


def measured(job: Job, *, held: bool = False) -> Output:
    """Counts no further than one entry over the limit. Raises ``GuestError`` for what cannot be measured.

    ``held``: also what this process holds open and has no name any more, which takes space until the guest ends.
    """
    out = f"{job.folder}/out"  # as text: a Path costs as much as the guest
    try:
        printed = _size(f"{job.folder}/stdout")
        nameless = _nameless(os.stat(out).st_dev) if held else NOTHING  # noqa: PTH116
        with os.scandir(out) as listed:
            empty = next(listed, None) is None
        found = NOTHING if empty else tree.measure(Path(out), job.limits.files)
    except Exception as error:  # a guest must not get rid of its limit, by whatever error
        raise _unmeasured(error) from error
    return Output(printed + nameless.size + found.size, nameless.entries + found.entries)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except FileNotFoundError:
        return 0


def _nameless(device: int) -> Output:
    """Of the open files on ``device`` those that were removed, but for what the process itself began with."""
    found: dict[int, int] = {}
    with os.scandir("/proc/self/fd") as listed:
        for entry in listed:
            number = int(entry.name)
            with contextlib.suppress(OSError):  # closed meanwhile
                status = os.fstat(number)
                if number > STDERR and status.st_dev == device and stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    found[status.st_ino] = max(status.st_blocks * 512, tree.SMALLEST_FILE)
    return Output(sum(found.values()), len(found))


def _unmeasured(error: Exception) -> GuestError:
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return GuestError("the run holds more files open than a process may", "file_limit", reusable=False)
    if isinstance(error, FileNotFoundError):  # no guest can remove /out itself
        return GuestError("the folder of the task has vanished", "task_folder", reusable=False)
    reason = error.strerror if isinstance(error, OSError) else type(error).__name__
    return GuestError(f"the output cannot be measured: {reason}", "output_limit", reusable=False)
