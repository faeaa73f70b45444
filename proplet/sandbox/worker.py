"""``python -m proplet.sandbox.worker FD PARENT MODULES``: runs guests, one at a time, for the agent that started it.

The process has an empty environment and an empty working folder, dies with its agent, and is the agent's to kill. Only
here is WebAssembly compiled and run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from proplet.sandbox import guest, tree
from proplet.sandbox.frames import LOGGED_BYTES, STDERR, Allowance, Answer, Job, packed, packed_message, receive
from proplet.sandbox.module_cache import ModuleCache

PR_SET_PDEATHSIG = 1
WATCH_S = 0.25
"""How often a running guest's output is measured; between two looks only RLIMIT_FSIZE bounds a single file."""
BEYOND_MEMORY_LIMIT = 1 << 30
"""Bytes of private memory for Python, the compiler and the tables, above the guest's own limit."""


def die_with_parent(parent: int) -> None:
    """Be killed when the agent's main thread ends, however it ends.

    ``swashplate.stack.supervisor`` has this for its own children; importing it would cost every worker 4 MB for pydantic.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def excess(job: Job) -> str:
    """What of the guest's stdout and ``out`` is over a limit, empty when nothing is; what cannot be measured is over."""
    folder, printed = Path(job.folder), 0
    try:
        with contextlib.suppress(FileNotFoundError):
            printed = (folder / "stdout").stat().st_size
        found = tree.measure(folder / "out", job.file_limit)
    except Exception as error:  # noqa: BLE001  # a guest must not get rid of its limit, by whatever error
        return f"the output cannot be measured: {error or type(error).__name__}"
    if found.entries > job.file_limit:
        return f"the output is over the limit of {job.file_limit} files and directories"
    if printed + found.size > job.output_limit:
        return f"the output is over the limit of {job.output_limit} bytes"
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


def perform(job: Job, modules: ModuleCache, stderr: str) -> Answer:
    """Run ``job`` with its limits on private memory and on output."""
    bytes_of_data = job.memory_limit + BEYOND_MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_of_data, resource.RLIM_INFINITY))
    answer = guest.run(job, modules, stderr)
    over = excess(job)
    return too_much(over) if over else answer


def main() -> None:
    number, parent, folder = sys.argv[1:]
    die_with_parent(int(parent))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=int(number))
    modules = ModuleCache(Path(folder))
    watch = Watch(connection)
    watch.answer(Answer(text="ready"))
    while (asked := receive(connection)) is not None:
        job = Job(**asked)
        with watch.over(job):
            answer = perform(job, modules, f"/proc/self/fd/{watch.write_end}")
        watch.answer(answer)


if __name__ == "__main__":
    main()
