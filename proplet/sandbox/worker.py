"""A worker process: runs guests, one at a time, for the agent. It never compiles."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proplet.sandbox import landlock
from proplet.sandbox.frames import NOT_COMPILED, Job, messages
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.performance import perform
from proplet.sandbox.watch import Watch

STORAGE_BLOCK = 512
"""Bytes; the kernel counts in these whatever the disk's own are."""


def serve(connection: socket.socket, modules: ModuleCache) -> None:
    """Returns when the agent is gone, or after the one guest that wants a process of its own."""
    asked = messages(connection)
    first = next(asked, None)
    if first is None:
        return
    restrict(Job.of(first), modules.folder)
    run_all(itertools.chain([first], asked), modules, Watch(connection))


def restrict(job: Job, modules: Path) -> None:
    """Of this process, to the files of ``job``, where the kernel can: for all its life, so that only others with the same granted
    directories can follow, and none when it has a process of its own. Raises ``OSError``.
    """
    if not landlock.version():
        return
    allowed = {str(modules): landlock.USE, "/proc": landlock.LIST}  # its descriptors are there
    if job.isolation == "fork":  # an input may be the same file as that of another task
        stdout = f"{job.folder}/stdout"
        with contextlib.suppress(OSError):  # the run will find out
            os.close(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        allowed |= {f"{job.folder}/in": landlock.READ, f"{job.folder}/out": landlock.WRITE, stdout: landlock.WRITE}
    else:
        allowed[job.folder.rpartition("/")[0]] = landlock.WRITE
    for here, _, write in job.directories:
        allowed[here] = landlock.WRITE if write else landlock.READ
    made = landlock.ruleset(allowed)
    landlock.restrict(made)
    os.close(made)


def run_all(asked: Iterable[Any], modules: ModuleCache, watch: Watch) -> None:
    """As ``serve``, with whatever watches."""
    for each in asked:
        job = Job.of(each)
        answer = perform(job, modules, watch)
        answer.spent.extend(_spent())
        watch.answer(answer)
        if job.isolation == "fork" and answer.code != NOT_COMPILED:
            return


def _spent() -> tuple[float, int, int]:
    """As in ``Answer.spent``."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_inblock * STORAGE_BLOCK, used.ru_oublock * STORAGE_BLOCK
