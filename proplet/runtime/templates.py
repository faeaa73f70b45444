"""Workers for tasks that want a process of their own, forked from a process that has their module loaded already."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from proplet.runtime.worker import Worker
from proplet.runtime.zygote import Template, Zygote
from proplet.sandbox.frames import Job, Limits, packed_message

MOST = 4
"""Templates, unless more are at work."""
KEPT_S = 60.0
"""How long one waits for the next task of its binary: it holds some megabytes."""


class Templates:
    """One for each binary that was asked for lately: none ever has two."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._turn = asyncio.Lock()
        self._kept: OrderedDict[bytes, Template] = OrderedDict()
        """By what they were told; the one that was used last comes last."""
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, job: Job) -> Worker:
        """A process for ``job`` that nobody else had. Cancelled, it leaves none behind. Raises ``UnavailableError``."""
        module = _module(job)
        async with self._turn:
            template = self._kept.get(module)
            if template is not None and template.gone:
                self._end(module)
                template = None
            if template is None:
                template = self._kept[module] = await Template.start(self._zygote, module)
                self._make_room(module)
            self._kept.move_to_end(module)
        self._wait_for_next(module)
        return await Worker.start(template, "worker")

    def processes(self) -> dict[int, str]:
        """The ids of what they forked, and what each is; they themselves are children of the zygote."""
        return {pid: kind for template in self._kept.values() for pid, kind in template.children.items()}

    async def close(self) -> None:
        """Returns when every process is gone."""
        for module in list(self._kept):
            self._end(module)
        await asyncio.gather(*self._ending)

    def _make_room(self, newest: bytes) -> None:
        for module, template in list(self._kept.items()):
            if len(self._kept) <= MOST:
                return
            if module != newest and not template.busy:
                self._end(module)

    def _wait_for_next(self, module: bytes) -> None:
        if (timer := self._timers.pop(module, None)) is not None:
            timer.cancel()
        self._timers[module] = asyncio.get_running_loop().call_later(KEPT_S, self._end_unused, module)

    def _end_unused(self, module: bytes) -> None:
        if self._kept[module].busy:
            self._wait_for_next(module)
        else:
            self._end(module)

    def _end(self, module: bytes) -> None:
        template = self._kept.pop(module)
        if (timer := self._timers.pop(module, None)) is not None:
            timer.cancel()
        template.end()
        ending = asyncio.ensure_future(template.wait())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _module(job: Job) -> bytes:
    """What decides which module is loaded, and how; nothing else of the task."""
    known = Limits(
        memory=job.limits.memory,
        output=0,
        files=0,
        table_elements=job.limits.table_elements,
        stack=job.limits.stack,
        fuel=min(job.limits.fuel, 1),
    )
    return packed_message(
        Job(
            job.digest,
            binary="",
            name="",
            folder="",
            inputs=[],
            cli_args=[],
            env={},
            limits=known,
            deterministic=job.deterministic,
            clock=job.clock,
            random=job.random,
        )
    )
