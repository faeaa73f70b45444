"""The agent's side of a process that forks: children asked for, watched, killed and waited for by their pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from swashplate.errors import UnavailableError

Kind = Literal["worker", "compiler", "template"]
REPLY_BYTES = 4096
READY_S = 60.0
"""How long a process may take to start and fork on a busy small machine."""


class Child:
    """A process that was forked. Nothing is done by its number, which may be another's once it has ended."""

    def __init__(self, kind: Kind, pid: int, pidfd: int) -> None:
        self.kind = kind
        self.pid = pid
        self._pidfd = pidfd
        self._gone = asyncio.Event()
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """The exit status, or the signal as a negative number; None when nobody was left to say it."""
        asyncio.get_running_loop().add_reader(pidfd, self._ended)

    @property
    def gone(self) -> bool:
        return self._gone.is_set()

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._gone.set()

    def kill(self) -> None:
        if not self.gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int | None:
        """Returns the ``status`` when the process is gone."""
        await self._gone.wait()
        return await asyncio.shield(self.status)


class Forker(Protocol):
    async def fork(self, kind: Kind) -> tuple[Child, socket.socket]:
        """A child and the socket to it. Cancelled, it leaves none behind. Raises ``UnavailableError``."""


class Forking:
    """The socket to a process that forks, and the children that it has forked; ``on_end`` is called once."""

    def __init__(self, connection: socket.socket, on_end: Callable[[], None]) -> None:
        self.children: dict[int, Child] = {}
        self.worked = False
        self.confinement: list[str] = []
        """What of the kernel holds the children, by name: told as it begins."""
        self.ended = False
        self._on_end = on_end
        self._turn = asyncio.Lock()
        self._asked: Kind = "worker"
        self._answer: asyncio.Future[Child] | None = None
        self._socket = connection
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    async def fork(self, kind: Kind, connection: socket.socket) -> Child:
        """Never cancelled. Raises ``OSError``, also as ``TimeoutError``."""
        async with self._turn:
            if self.ended:
                raise ConnectionResetError("the process that forks has ended")
            self._asked = kind
            socket.send_fds(self._socket, [kind.encode()], [connection.fileno()])
            self._answer = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(READY_S):
                    return await self._answer
            except TimeoutError:
                self.end()  # or its late answer would be taken for that to the next question
                raise

    def _hear(self) -> None:
        try:
            try:
                said, handles, _, _ = socket.recv_fds(self._socket, REPLY_BYTES, 1)
            except ConnectionResetError:  # it ended with our question unread; its last words are still there
                said, handles, _, _ = socket.recv_fds(self._socket, REPLY_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            said, handles = b"", []
        if not said:
            self.end()
            return
        message: dict[str, Any] = json.loads(said)
        if "confinement" in message:
            self.confinement = message["confinement"]
        elif "broken" in message:  # it cannot begin
            if self._answer is not None:
                self._answer.set_exception(OSError(message["broken"]))
            self.end()
        elif "ended" in message:
            if (ended := self.children.pop(message["ended"], None)) is not None:
                ended.status.set_result(message["status"])
        elif self._answer is not None and "forked" in message:
            self.worked = True
            if not handles:  # the kernel drops what we have no descriptor for; the child ends with its connection
                self._answer.set_exception(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                return
            child = self.children[message["forked"]] = Child(self._asked, message["forked"], handles[0])
            self._answer.set_result(child)
        elif self._answer is not None:
            self._answer.set_exception(OSError(message["failed"]))

    def end(self) -> None:
        """It has ended, or must; its children end with it."""
        if self.ended:
            return
        self.ended = True
        asyncio.get_running_loop().remove_reader(self._socket)
        with contextlib.suppress(OSError):
            self._socket.send(b"farewell")
        self._socket.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the process that forks has ended"))
        for child in self.children.values():
            child.kill()
            child.status.set_result(None)
        self._on_end()

    async def wait(self) -> None:
        """After ``end``: returns when all its children are gone."""
        for child in self.children.values():
            await child.wait()


async def forked(kind: Kind, fork: Callable[[Kind, socket.socket], Awaitable[Child]]) -> tuple[Child, socket.socket]:
    """As ``Forker.fork``, by a ``fork`` that is never cancelled."""
    try:
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET if kind == "template" else socket.SOCK_STREAM
        )
    except OSError as error:
        raise _unavailable(kind, error) from error
    asked = asyncio.ensure_future(_closing(theirs, kind, fork))
    try:
        return await asyncio.shield(asked), ours
    except BaseException as error:
        ours.close()
        asked.add_done_callback(_unwanted)
        if isinstance(error, OSError):
            raise _unavailable(kind, error) from error
        raise


async def _closing(
    connection: socket.socket, kind: Kind, fork: Callable[[Kind, socket.socket], Awaitable[Child]]
) -> Child:
    with connection:
        return await fork(kind, connection)


def _unavailable(kind: Kind, error: OSError) -> UnavailableError:
    return UnavailableError(f"a {kind} process did not start: {error}", code="worker_died")


def _unwanted(asked: asyncio.Future[Child]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        asked.result().kill()
