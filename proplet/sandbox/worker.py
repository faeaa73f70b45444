"""``python -m proplet.sandbox.worker FD PARENT MODULES``: runs guests, one at a time, for the agent that started it.

The process has an empty environment and an empty working folder, dies with its agent, and is the agent's to kill. Only
here is WebAssembly compiled and run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from proplet.sandbox import guest
from proplet.sandbox.frames import Answer, Job, receive
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.watch import Watch, excess, too_much

PR_SET_PDEATHSIG = 1
BEYOND_MEMORY_LIMIT = 1 << 30
"""Bytes of private memory for Python, the compiler and the tables, above the guest's own limit."""


def die_with_parent(parent: int) -> None:
    """Be killed when the agent's main thread ends, however it ends.

    ``swashplate.stack.supervisor`` has this for its own children; importing it would cost every worker 4 MB for pydantic.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def perform(job: Job, modules: ModuleCache, stderr: str) -> Answer:
    """Run ``job`` with its limits on private memory and on output."""
    bytes_of_data = job.limits.memory + BEYOND_MEMORY_LIMIT
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
        job = Job.of(asked)
        with watch.over(job):
            answer = perform(job, modules, f"/proc/self/fd/{watch.write_end}")
        watch.answer(answer)


if __name__ == "__main__":
    main()
