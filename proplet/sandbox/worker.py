"""A worker process: runs guests, one at a time, for the agent. It never compiles."""

from __future__ import annotations

import resource
import socket

from proplet.sandbox import guest
from proplet.sandbox.frames import NOT_COMPILED, Answer, Job, receive
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.watch import Watch, excess, too_much

BEYOND_MEMORY_LIMIT = 1 << 30
"""Bytes of private memory for Python, the runtime and the tables, above the guest's own limit."""


def perform(job: Job, modules: ModuleCache, stderr: str) -> Answer:
    """Run ``job`` with its limits on private memory and on output."""
    bytes_of_data = job.limits.memory + BEYOND_MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_of_data, resource.RLIM_INFINITY))
    answer = guest.run(job, modules, stderr)
    over = excess(job)
    return too_much(over) if over else answer


def serve(connection: socket.socket, modules: ModuleCache) -> None:
    """Returns when the agent is gone, or after the one guest that wants a process of its own."""
    watch = Watch(connection)
    while (asked := receive(connection)) is not None:
        job = Job.of(asked)
        with watch.over(job):
            answer = perform(job, modules, f"/proc/self/fd/{watch.write_end}")
        watch.answer(answer)
        if job.isolation == "fork" and answer.code != NOT_COMPILED:
            return
