"""The agent's side of the zygote: children asked for, watched, killed and waited for by their pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from swashplate import logging
from swashplate.errors import UnavailableError

log = logging.get("runtime")

Kind = Literal["worker", "compiler"]
REPLY_BYTES = 4096
READY_S = 60.0
"""How long a zygote may take to start and fork on a busy small machine."""
END_S = 2.0


class Child:
    """A process forked by the zygote. Nothing is done by its number, which may be another's once it has ended."""

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


class _Life:
    """One life of the zygote: its process, the socket to it, and the children that it forked."""

    def __init__(
        self, modules: Path, empty: Path, tasks: Path, granted: Mapping[str, bool], on_end: Callable[[_Life], None]
    ) -> None:
        self.children: dict[int, Child] = {}
        self.worked = False
        self.confinement: list[str] | None = None
        """None until it has begun."""
        self._ended = False
        self._on_end = on_end
        self._asked: Kind = "worker"
        self._answer: asyncio.Future[Child] | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package_root = str(Path(__file__).resolve().parents[2])
        enter = "import sys; sys.path.insert(0, sys.argv.pop(1)); from proplet.sandbox import birth; birth.main()"
        folders = str(modules.resolve()), str(tasks.resolve()), json.dumps(dict(granted))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", enter, package_root, str(theirs.fileno()), *folders],
                env={},
                cwd=empty,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    async def fork(self, kind: Kind, connection: socket.socket) -> Child:
        """One at a time, and never cancelled. Raises ``OSError``, also as ``TimeoutError``."""
        self._asked = kind
        self._answer = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(self._socket, [kind.encode()], [connection.fileno()])
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
            if self.confinement is None:  # it could not begin
                self.end()

    def end(self) -> None:
        """It has ended, or must; its children end with it."""
        if self._ended:
            return
        self._ended = True
        asyncio.get_running_loop().remove_reader(self._socket)
        with contextlib.suppress(OSError):
            self._socket.send(b"farewell")
        self._socket.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the zygote ended"))
        for child in self.children.values():
            child.kill()
            child.status.set_result(None)
        self._on_end(self)

    async def wait(self) -> None:
        """After ``end``: returns when it and all its children are gone."""
        try:
            await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        for child in self.children.values():
            await child.wait()


class Zygote:
    """Children, of one zygote process after the other: should one end, the next fork starts another.

    ``modules`` is the folder of compiled modules, ``empty`` the working folder of every child, ``tasks`` what is removed when
    the agent ends without a goodbye, ``granted`` the further folders that guests may be let into, with True to write.
    ``on_death`` is called when a zygote that has worked before ends on its own.
    """

    def __init__(
        self,
        modules: Path,
        empty: Path,
        tasks: Path,
        on_death: Callable[[], None],
        granted: Mapping[str, bool] | None = None,
    ) -> None:
        self._folders = modules, empty, tasks, granted or {}
        self._on_death = on_death
        self._life: _Life | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._closing = False

    @property
    def confinement(self) -> list[str]:
        """What of the kernel holds its children, by name. Known once it has forked."""
        return (self._life.confinement if self._life is not None else None) or []

    def processes(self) -> dict[int, str]:
        """The ids of the zygote and of its children, and what each is."""
        if self._life is None:
            return {}
        return {self._life.pid: "zygote"} | {pid: child.kind for pid, child in self._life.children.items()}

    def renew(self) -> None:
        """The next fork is from another process."""
        if self._life is not None:
            self._life.end()

    async def fork(self, kind: Kind) -> tuple[Child, socket.socket]:
        """A child and the socket to it. Cancelled, it leaves none behind. Raises ``UnavailableError``."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise UnavailableError(f"a {kind} process did not start: {error}", code="worker_died") from error
        asked = asyncio.ensure_future(self._forked(kind, theirs))
        try:
            return await asyncio.shield(asked), ours
        except BaseException as error:
            ours.close()
            asked.add_done_callback(_unwanted)
            if isinstance(error, OSError):
                raise UnavailableError(f"a {kind} process did not start: {error}", code="worker_died") from error
            raise

    async def _forked(self, kind: Kind, connection: socket.socket) -> Child:
        with connection:
            async with self._turn:
                if self._closing:
                    raise ConnectionResetError("the proplet ends")
                if self._life is None:
                    self._life = _Life(*self._folders, self._ended)
                return await self._life.fork(kind, connection)

    def _ended(self, life: _Life) -> None:
        self._life = None
        ending = asyncio.ensure_future(life.wait())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if not self._closing:
            log.error("the zygote ended, and with it everything that ran", process=life.pid)
            if life.worked:
                self._on_death()

    async def close(self) -> None:
        """Returns when every process is gone."""
        self._closing = True
        if self._life is not None:
            self._life.end()
        await asyncio.gather(*self._ending)


def _unwanted(asked: asyncio.Future[Child]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        asked.result().kill()
