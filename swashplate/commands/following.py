"""A task or a whole workflow followed until it has ended, told on stderr: one living line on a terminal, else a line a change."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from swashplate.commands import output, reports
from swashplate.errors import SwashplateError

if TYPE_CHECKING:
    from swashplate.client import Client, Report, Task

SILENT_S = 4.0
"""How long a quiet command waits before it says what for."""

Say = Callable[[str], None]
REST_S = 3.0
"""How long the last of a log may take when the task has ended."""


@contextmanager
def telling(*, quiet: bool = False) -> Iterator[Say]:
    """Says how things stand; the same twice is said once. On a terminal the last word replaces the one before."""
    if quiet:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        last = ""

        def say(text: str) -> None:
            nonlocal last
            if text != last:
                output.note(text)
            last = text

        yield say
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        line = progress.add_task("", total=None)
        yield lambda text: progress.update(line, description=output.clean(text))


def line_of(task: Task) -> str:
    """How a task stands, in one line."""
    status = task.stage if task.status == "running" and task.stage else task.status
    words = [f"task {task.id[:8]} {task.name}: {status}"]
    if task.proplet_id and task.status == "running":
        words.append(f"on {task.proplet_id[:8]}")
    if task.attempt > 1 and not task.broadcast:
        words.append(f"(attempt {task.attempt})")
    if task.waiting and not task.ended:
        words.append(f"- {task.waiting}")
    return " ".join(words)


async def follow(client: Client, task: Task, *, quiet: bool = False) -> Task:
    """The task when it has ended, or when it stands; over restarts of the manager. What its guest writes to stderr is shown.

    Even a ``quiet`` one tells once what is waited for, when that lasts: nobody may ever take it.
    """
    with telling(quiet=quiet) as say:
        say(line_of(task))
        if task.settled:
            return task
        beside = asyncio.create_task(_explain(client, task.id) if quiet else _show_stderr(client, task))
        now = task
        try:
            async for now in client.tasks.watch(task.id):
                if now.settled:
                    break  # whoever follows says how it came out
                say(line_of(now))
            if now.ended and not quiet:
                await asyncio.wait([beside], timeout=REST_S)
        finally:
            beside.cancel()
    return now


async def _show_stderr(client: Client, task: Task) -> None:
    from swashplate.commands import task_logs

    with suppress(SwashplateError):  # that it cannot be shown is no reason to fail; an older manager has none
        await task_logs.follow(client, task, task_logs.writer(sys.stderr))


async def _explain(client: Client, task_id: str) -> None:
    while True:
        await asyncio.sleep(SILENT_S)
        try:
            now = await client.tasks.get(task_id)
        except SwashplateError:  # whoever follows the task meets it, too
            continue
        if (now.waiting or now.stage == "compiling") and not now.settled:
            output.note(line_of(now))
            return


def conclude(task: Task, *, began: float, report: Report | None = None, quiet: bool = False) -> None:
    """What is said of a task that was followed. Failure is told on stderr, and by the exit status of whoever calls."""
    lasted = output.seconds(time.monotonic() - began)
    if task.succeeded or not task.ended:
        word = "is ready" if task.latent and not task.ended else task.status if task.ended else "is running"
        where = f" on {task.proplet_id}" if task.proplet_id else ""
        output.note(f"task {task.id} {word}{where} ({lasted})")
        return
    reason = reports.reason(task.error, task.code, report)
    output.note(f"error: task {task.id} {task.status} after {lasted}{reason}")
    if quiet:  # else it was shown as it came
        reports.tell_log(report)
    if task.attempt > 1:
        output.note(f"hint: swashplate task attempts {task.id[:8]} shows every attempt")
