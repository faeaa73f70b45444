"""The agent's side of one child of the zygote: a message to it, its answer, and what its guest says on stderr meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Self, cast

from proplet.runtime.answers import answer_of
from proplet.runtime.forking import Child, Forker, Kind
from proplet.sandbox.bounds import Compilation
from proplet.sandbox.frames import STDERR, Answer, Incoming, Job, packed_message
from proplet.work.course import Spent
from swashplate.errors import SwashplateError

OnStderr = Callable[[bytes], None]


class WorkerDiedError(SwashplateError):
    """The process ended while it worked for us; nothing says that another attempt would fare the same.

    ``ending`` is its exit status, or the signal as a negative number; None when that is not known.
    """

    default_code = "worker_died"
    default_retryable = True

    def __init__(self, status: int | None) -> None:
        how = "" if status is None else f" with signal {-status}" if status < 0 else f" with status {status}"
        super().__init__(f"the worker process ended{how}")
        self.ending = status


def _ignored(_text: bytes) -> None:
    return None


class _Connection(asyncio.Protocol):
    """The socket to the child; one question at a time."""

    def __init__(self) -> None:
        self._incoming = Incoming()
        self._answer: asyncio.Future[Answer | None] | None = None
        self._on_stderr: OnStderr = _ignored
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one, but no instance of it

    async def ask(self, message: Job | Compilation, on_stderr: OnStderr) -> Answer | None:
        """None when the child is gone."""
        if self._transport is None or self._transport.is_closing():
            return None
        context = contextvars.copy_context()  # what is logged for the guest names its task and round
        self._on_stderr = lambda text: context.run(on_stderr, text)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(packed_message(message))
        return await self._answer

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._incoming.feed(data):
                if kind == STDERR:
                    self._on_stderr(payload)
                else:
                    self._answered(answer_of(payload))
        except ValueError:  # the process is no longer what we started
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered(None)
        self._transport = None

    def _answered(self, answer: Answer | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Worker:
    def __init__(self, child: Child, connection: _Connection) -> None:
        self._child = child
        self._connection = connection
        self.runs = 0
        """How many guests it has run."""
        self.spent = Spent()
        """When it last answered: it uses nothing while it waits."""
        self.digest = ""
        """The binary that it ran."""
        self.directories: list[tuple[str, str, bool]] | None = None
        """Those of the job that it was asked first: it may touch no others."""
        self.stale = False

    @classmethod
    async def start(cls, forker: Forker, kind: Kind) -> Self:
        """Cancelled, it leaves no process behind. Raises ``UnavailableError``."""
        child, ours = await forker.fork(kind)
        try:
            ours.setblocking(False)
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, sock=ours)
        except BaseException:
            child.kill()
            ours.close()
            raise
        return cls(child, connection)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def gone(self) -> bool:
        return self._child.gone

    @property
    def fresh(self) -> bool:
        """May it run any binary, for a task without granted directories?"""
        return not self.runs and not self.directories

    async def ask(self, message: Job | Compilation, on_stderr: OnStderr = _ignored) -> Answer:
        """Raises ``WorkerDiedError`` when the process ends first."""
        answer = await self._connection.ask(message, on_stderr)
        if answer is None:
            self._child.kill()
            raise WorkerDiedError(await self._child.wait())
        if answer.spent:
            cpu_s, read, written = answer.spent
            self.spent = Spent(cpu_s, int(read), int(written))
        return answer

    def kill(self) -> None:
        self._child.kill()
        self._connection.close()
