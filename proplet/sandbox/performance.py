"""All of one run in this process: its bounds, the guest, what it used and what it gave."""

from __future__ import annotations

import dataclasses
import resource

from proplet.sandbox import digests, guest, pooling
from proplet.sandbox.bounds import soft_limit
from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Answer, Job
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.output import measured
from proplet.sandbox.watch import Watch, check_time

BEYOND_MEMORY_LIMIT = 256 << 20
"""Bytes of private memory for Python, the runtime and its tables, above the guest's own limit, and above what the one before may
have left: see ``pooling``. A process that has run guests has some 30 MiB of it; the rest is for a guest's
own calls, of which the runtime copies what it is given."""
OF_THE_MACHINE = {"deadline", "cpu_limit"}
"""What depends on how fast it is; such an end has no digest."""


def perform(job: Job, modules: ModuleCache, watch: Watch) -> Answer:
    """Never raises for what a guest does."""
    digested = job.deterministic and not job.precompile
    inputs_digest = digests.of_inputs(job) if digested else ""
    run = watch.begin(job)
    try:
        _bound(job)
        answer = guest.run(job, modules, watch.stderr)
        answer.used.update(run.used())
        try:
            output = measured(job)
            answer.used.update(output.used)
            output.check(job.limits)
            check_time(job.limits, answer.used["wall_s"], answer.used["cpu_s"])
        except GuestError as error:
            answer = dataclasses.replace(answer, error=error.sentence, code=error.code, reusable=error.reusable)
        if digested and answer.code not in OF_THE_MACHINE:
            output_digest = digests.of_output(job, answer.text, answer.error, answer.code)
            answer = dataclasses.replace(answer, inputs_digest=inputs_digest, output_digest=output_digest)
    finally:
        watch.end()
    return answer


def _bound(job: Job) -> None:
    """No file grows beyond the output: a guest that tries is told EFBIG. What fails for want of memory is told too.

    Both hold until the next run: the process itself writes no files.
    """
    own = 0 if guest.configuration(job).pooled else job.limits.memory  # beside what may still count in the pool
    soft_limit(resource.RLIMIT_DATA, pooling.MEMORY + own + BEYOND_MEMORY_LIMIT)
    soft_limit(resource.RLIMIT_FSIZE, job.limits.output + 1)
