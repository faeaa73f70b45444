"""The agent's side of the zygote, and of the templates that it forks: whatever runs guests or compiles is forked by them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from proplet.runtime.forking import Child, Forking, Kind, forked
from swashplate import logging
from swashplate.errors import UnavailableError

log = logging.get("runtime")

END_S = 2.0


class _Life:
    """One life of the zygote: its process, and what it forks."""

    def __init__(self, modules: Path, empty: Path, tasks: Path, on_end: Callable[[_Life], None]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package_root = str(Path(__file__).resolve().parents[2])
        enter = "import sys; sys.path.insert(0, sys.argv.pop(1)); from proplet.sandbox import birth; birth.main()"
        folders = str(modules.resolve()), str(tasks.resolve())
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
        self.forking = Forking(ours, lambda: on_end(self))

    async def wait(self) -> None:
        """After its end: returns when it and all its children are gone."""
        try:
            await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        await self.forking.wait()


class Zygote:
    """Children, of one zygote process after the other: should one end, the next fork starts another.

    ``modules`` is the folder of compiled modules, ``empty`` the working folder of every child, ``tasks`` what is removed when
    the agent ends without a goodbye. ``on_death`` is called when a zygote that has worked before ends on its own.
    """

    def __init__(self, modules: Path, empty: Path, tasks: Path, on_death: Callable[[], None]) -> None:
        self._folders = modules, empty, tasks
        self._on_death = on_death
        self._life: _Life | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def confinement(self) -> list[str]:
        """What of the kernel holds its children, by name. Known once it has forked."""
        return self._life.forking.confinement if self._life is not None else []

    def processes(self) -> dict[int, str]:
        """The ids of the zygote and of its children, and what each is."""
        if self._life is None:
            return {}
        return {self._life.pid: "zygote"} | {pid: child.kind for pid, child in self._life.forking.children.items()}

    async def fork(self, kind: Kind) -> tuple[Child, socket.socket]:
        """A child and the socket to it. Cancelled, it leaves none behind. Raises ``UnavailableError``."""
        return await forked(kind, self._fork)

    async def _fork(self, kind: Kind, connection: socket.socket) -> Child:
        if self._closing:
            raise ConnectionResetError("the proplet ends")
        if self._life is None:
            self._life = _Life(*self._folders, self._ended)
        return await self._life.forking.fork(kind, connection)

    def _ended(self, life: _Life) -> None:
        self._life = None
        ending = asyncio.ensure_future(life.wait())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if not self._closing:
            log.error("the zygote ended, and with it everything that ran", process=life.pid)
            if life.forking.worked:
                self._on_death()

    async def close(self) -> None:
        """Returns when every process is gone."""
        self._closing = True
        if self._life is not None:
            self._life.forking.end()
        await asyncio.gather(*self._ending)


class Template:
    """A child of the zygote that has loaded one module and runs nothing: it forks those that do."""

    def __init__(self, child: Child, connection: socket.socket) -> None:
        self._child = child
        self._forking = Forking(connection, child.kill)
        self._asked = 0

    @classmethod
    async def start(cls, zygote: Zygote, module: bytes) -> Self:
        """``module`` is what ``proplet.sandbox.zygote.template`` reads. Raises ``UnavailableError``."""
        child, connection = await zygote.fork("template")
        try:
            connection.send(module)
        except OSError as error:
            connection.close()
            raise UnavailableError(f"a template process did not start: {error}", code="worker_died") from error
        return cls(child, connection)

    @property
    def gone(self) -> bool:
        return self._forking.ended or self._child.gone

    @property
    def busy(self) -> bool:
        """Does it fork, or has what it forked not ended?"""
        return self._asked > 0 or bool(self.children)

    @property
    def children(self) -> dict[int, str]:
        """The ids of those that it forked and that have not ended, and what each is. With it they have all ended."""
        return {} if self.gone else {pid: child.kind for pid, child in self._forking.children.items()}

    async def fork(self, kind: Kind) -> tuple[Child, socket.socket]:
        """A child and the socket to it. Cancelled, it leaves none behind. Raises ``UnavailableError``."""
        self._asked += 1
        try:
            return await forked(kind, self._forking.fork)
        finally:
            self._asked -= 1

    def end(self) -> None:
        """And all its children."""
        self._forking.end()

    async def wait(self) -> None:
        """After ``end``: returns when it and its children are gone."""
        await self._forking.wait()
        await self._child.wait()
