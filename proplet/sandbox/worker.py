"""A worker process: runs guests, one at a time, for the agent. It never compiles."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

from proplet.sandbox import landlock
from proplet.sandbox.frames import NOT_COMPILED, Job, messages
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.performance import perform
from proplet.sandbox.watch import Watch

STORAGE_BLOCK = 512
"""Bytes; the kernel counts in these whatever the disk's own are."""


def files(modules: Path, tasks: Path, granted: dict[str, bool]) -> int:
    """The ``landlock.ruleset`` of a worker: the compiled modules, the folders of tasks, and what a policy may grant, where a
    folder may be written to that has True. Raises ``OSError``.
    """
    allowed = {path: landlock.WRITE if write else landlock.READ for path, write in granted.items()}
    return landlock.ruleset(
        {
            **allowed,
            str(modules): landlock.USE,
            str(tasks): landlock.WRITE,
            "/proc": landlock.LIST,
        }  # its own descriptors
    )


def serve(connection: socket.socket, modules: ModuleCache) -> None:
    """Returns when the agent is gone, or after the one guest that wants a process of its own."""
    watch = Watch(connection)
    for asked in messages(connection):
        job = Job.of(asked)
        answer = perform(job, modules, watch)
        answer.spent.extend(_spent())
        watch.answer(answer)
        if job.isolation == "fork" and answer.code != NOT_COMPILED:
            return


def _spent() -> tuple[float, int, int]:
    """As in ``Answer.spent``."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_inblock * STORAGE_BLOCK, used.ru_oublock * STORAGE_BLOCK
