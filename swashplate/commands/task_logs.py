"""``swashplate task logs``: what a task's guest wrote to stderr, now and as it comes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from swashplate.commands import naming, output
from swashplate.commands.arguments import TaskId
from swashplate.commands.connection import ManagerUrl, speak
from swashplate.words import counted

if TYPE_CHECKING:
    from swashplate.client import Attempt, Client, LogPart, Task

Write = Callable[[str], None]


class Lines:
    """Whole lines out of the parts of a log, with what is missing in a line of its own; ``prefix`` begins each."""

    def __init__(self, write: Write, prefix: str = "") -> None:
        self._write = write
        self._prefix = prefix
        self._partial = ""

    def feed(self, part: LogPart) -> None:
        if part.dropped:
            self.end()
            self._write(f"{self._prefix}[{counted(part.dropped, 'byte')} missing here]")
        *lines, self._partial = (self._partial + part.text).split("\n")
        for line in lines:
            self._write(self._prefix + line)

    def going_on(self, write: Write) -> Lines:
        """What follows, and the line that is not over yet, written elsewhere."""
        other = Lines(write, self._prefix)
        other._partial, self._partial = self._partial, ""
        return other

    def end(self) -> None:
        """The last line may have no end."""
        if self._partial:
            self._write(self._prefix + self._partial)
        self._partial = ""


def writer(stream: TextIO) -> Write:
    """Lines as they are; on a terminal, which they must not steer, without control characters."""
    shown: Callable[[object], str] = output.clean if stream.isatty() else str
    return lambda line: print(shown(line.rstrip("\r")), file=stream, flush=True)


async def copy(client: Client, task_id: str, attempt: int, write: Write, *, follow: bool, prefix: str = "") -> None:
    """The log of one attempt, 0 for the latest, to its end, or without ``follow`` to where it is."""
    lines = Lines(write, prefix)
    async for part in client.tasks.logs(task_id, attempt=attempt, follow=follow):
        lines.feed(part)
    lines.end()


async def follow(client: Client, task: Task, write: Write) -> None:
    """Until the task has ended; of a broadcast the attempts that there are."""
    if task.broadcast:
        await _of_each(client, task, write, follow=True, tail=None)
    else:
        await _follow_runs(client, task.id, write)


async def _follow_runs(client: Client, task_id: str, write: Write) -> None:
    """The log of the latest attempt, then of those that take its place, until the task has ended; over restarts of the
    manager.
    """
    latest = 0
    async for task in client.tasks.watch(task_id):
        for attempt in range(latest + 1 if latest else max(1, task.attempt), task.attempt + 1):
            to = _announcing(write, f"attempt {attempt} of task {task_id[:8]}") if latest else write
            latest = attempt
            await copy(client, task_id, attempt, to, follow=True)


def _announcing(write: Write, note: str) -> Write:
    """An attempt that nobody took has no log, and is not worth a word."""
    silent = True

    def announced(line: str) -> None:
        nonlocal silent
        if silent:
            output.note(note)
        silent = False
        write(line)

    return announced


def logs(
    task: TaskId,
    going_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    attempt: Annotated[int, typer.Option("--attempt", "-a", min=0, help="Of this attempt; 0: the latest.")] = 0,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Of what there is only so many of the last lines.")
    ] = None,
    manager: ManagerUrl = "",
) -> None:
    """Print what a task's guest writes to stderr.

    Of a broadcast task each line begins with its proplet. What is missing, since it came too fast or got lost, is told in
    its place.
    """
    write = writer(sys.stdout)

    async def work(client: Client) -> None:
        found = await client.tasks.get(await naming.task(client, task))
        if tail is None and not attempt and going_on:
            await follow(client, found, write)
        elif found.broadcast and not attempt:
            await _of_each(client, found, write, follow=going_on, tail=tail)
        elif tail is not None:
            await _with_tail(client, found.id, attempt, write, tail, follow=going_on)
        else:
            await copy(client, found.id, attempt, write, follow=going_on)

    try:
        speak(manager, work)
    except BrokenPipeError:  # `| head` has enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _with_tail(
    client: Client, task_id: str, attempt: int, write: Write, tail: int, *, follow: bool, prefix: str = ""
) -> None:
    """Of what there is the last lines, then what comes."""
    last: deque[str] = deque(maxlen=tail)
    lines = Lines(last.append, prefix)
    offset = 0
    while True:
        part = await client.tasks.log(task_id, attempt=attempt, offset=offset)
        attempt = attempt or part.attempt
        if part.next_offset == offset:
            break
        lines.feed(part)
        offset = part.next_offset
    if not follow or part.ended:
        lines.end()
    for line in last:
        write(line)
    if follow and not part.ended:
        going = lines.going_on(write)
        async for more in client.tasks.logs(task_id, attempt=attempt, offset=offset):
            going.feed(more)
        going.end()


async def _of_each(client: Client, task: Task, write: Write, *, follow: bool, tail: int | None) -> None:
    """Of the attempts of the latest run."""
    attempts = [each for each in (await client.tasks.attempts(task.id)).items if each.run == task.run]
    width = max((len(each.proplet_id[:8]) for each in attempts), default=0)

    async def one(each: Attempt) -> None:
        prefix = f"{each.proplet_id[:8]:{width}} | "
        if tail is None:
            await copy(client, task.id, each.attempt, write, follow=follow, prefix=prefix)
        else:
            await _with_tail(client, task.id, each.attempt, write, tail, follow=follow, prefix=prefix)

    if follow:
        await asyncio.gather(*(one(each) for each in attempts))
    else:
        for each in attempts:
            await one(each)
