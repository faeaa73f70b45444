"""Beside a running guest, in the same process: its stderr handed on, its output measured."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from proplet.sandbox import tree
from proplet.sandbox.frames import LOGGED_BYTES, STDERR, Allowance, Answer, Job, packed, packed_message

WATCH_S = 0.25
"""How often a running guest's output is measured; between two looks only RLIMIT_FSIZE bounds a single file."""


def excess(job: Job) -> str:
    """What of the guest's stdout and ``out`` is over a limit, empty when nothing is; what cannot be measured is over."""
    folder, printed = Path(job.folder), 0
    try:
        with contextlib.suppress(FileNotFoundError):
            printed = (folder / "stdout").stat().st_size
        found = tree.measure(folder / "out", job.limits.files)
    except Exception as error:  # noqa: BLE001  # a guest must not get rid of its limit, by whatever error
        return f"the output cannot be measured: {error or type(error).__name__}"
    if found.entries > job.limits.files:
        return f"the output is over the limit of {job.limits.files} files and directories"
    if printed + found.size > job.limits.output:
        return f"the output is over the limit of {job.limits.output} bytes"
    return ""


class Watch:
    """Beside a run: hands the guest's stderr over as it comes, and ends the process when the output is too much."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pipe, self.write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._allowance = Allowance(0)
        self._busy = threading.Event()
        threading.Thread(target=self._serve, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def over(self, job: Job) -> Iterator[None]:
        self._job, self._allowance = job, Allowance(LOGGED_BYTES + 1)
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
            self._job = None

    def answer(self, answer: Answer) -> None:
        """Send ``answer``, after everything that the guest wrote to stderr."""
        with self._lock:
            self._drain()
            self._connection.sendall(packed_message(answer))

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while text := os.read(self._pipe, 1 << 16):
                passed = text[: self._allowance.left()]
                self._allowance.spend(len(passed))
                if passed:
                    self._connection.sendall(packed(STDERR, passed))

    def _serve(self) -> None:
        """Nothing runs unwatched: the process ends with this thread."""
        try:
            while self._busy.wait():
                self._look()
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)

    def _look(self) -> None:
        job = self._job
        readable, _, _ = select.select([self._pipe], [], [], WATCH_S)
        with self._lock:
            if readable:
                self._drain()
            if job is not None and job is self._job and (over := excess(job)):
                self._drain()
                self._connection.sendall(packed_message(too_much(over)))
                os._exit(1)


def too_much(over: str) -> Answer:
    return Answer(error=over, code="output_limit", reusable=False)
