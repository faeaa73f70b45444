"""A worker process: runs guests, one at a time, for the agent. It never compiles."""

from __future__ import annotations

import socket

from proplet.sandbox.frames import NOT_COMPILED, Job, receive
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.performance import perform
from proplet.sandbox.watch import Watch


def serve(connection: socket.socket, modules: ModuleCache) -> None:
    """Returns when the agent is gone, or after the one guest that wants a process of its own."""
    watch = Watch(connection)
    while (asked := receive(connection)) is not None:
        job = Job.of(asked)
        answer = perform(job, modules, watch)
        watch.answer(answer)
        if job.isolation == "fork" and answer.code != NOT_COMPILED:
            return
