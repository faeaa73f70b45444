"""Child processes: started, watched, restarted with a growing delay, stopped cleanly, and never outliving their parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swashplate.errors import ConfigurationError
from swashplate.stack.rotation import Pump, RotatedLog

RESTART_FIRST_S = 0.5
RESTART_MOST_S = 30.0
STEADY_S = 30.0
"""A child that ran this long starts over with the first delay."""
STOP_GRACE_S = 5.0

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int) -> Callable[[], None]:
    """For ``preexec_fn``: the kernel kills the child when the parent's thread that started it ends, however it ends."""

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    return prepare


def restart_delay(previous: float | None, ran_s: float) -> float:
    """Seconds to wait before a child that ran ``ran_s`` seconds is started again."""
    if previous is None or ran_s >= STEADY_S:
        return RESTART_FIRST_S
    return min(previous * 2, RESTART_MOST_S)


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with status {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


@dataclass
class Child:
    """One process of the stack. ``ready_url`` answers 200 when it can do its work; without one a TCP port counts."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_file: Path
    ready_url: str = ""
    ready_port: int = 0
    address: str = ""
    last: bool = False
    """Stopped after all others."""

    process: asyncio.subprocess.Process | None = field(default=None, repr=False)
    pump: Pump | None = field(default=None, repr=False)
    restarts: int = 0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def last_log_line(self) -> str:
        with contextlib.suppress(OSError, IndexError):
            return self.log_file.read_text(errors="replace").strip().splitlines()[-1]
        return ""


class Supervisor:
    """Runs children until it is closed. ``notify`` is told in one sentence what a user should know."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.children: list[Child] = []

    async def start(self, child: Child) -> None:
        """Start a child, or one that was stopped again; one that is being watched is left alone."""
        if child not in self.children:
            self.children.append(child)
        if child.name not in self._watchers:
            await self._spawn(child)
            self._watchers[child.name] = asyncio.get_running_loop().create_task(self._watch(child), name=child.name)

    async def stop(self, child: Child) -> None:
        """End a child, which then stays down until it is started."""
        watcher = self._watchers.pop(child.name, None)
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        await self._stop(child)

    async def remove(self, child: Child) -> None:
        await self.stop(child)
        self.children.remove(child)

    def state(self, child: Child) -> str:
        """``running``, ``stopped`` on demand, or ``restarting`` after it ended by itself."""
        if child.name not in self._watchers:
            return "stopped"
        return "running" if child.pid is not None else "restarting"

    async def _spawn(self, child: Child) -> None:
        try:
            child.log_file.parent.mkdir(parents=True, exist_ok=True)
            pump = child.pump = Pump(RotatedLog(child.log_file))
        except OSError as error:
            raise ConfigurationError(f"cannot write the log of {child.name}: {error}") from error
        try:
            # A session of its own: Ctrl-C reaches the supervisor alone, which stops the children in order.
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                env=dict(child.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pump.writing,
                stderr=pump.writing,
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )
        except OSError as error:
            pump.close()
            raise ConfigurationError(f"cannot start {child.name}: {error}") from error
        finally:
            os.close(pump.writing)

    async def _spawn_again(self, child: Child) -> None:
        delay = RESTART_FIRST_S
        while True:
            try:
                await self._spawn(child)
                return
            except ConfigurationError as error:  # no memory or no files left, say: that can pass
                self._notify(f"{error.sentence}, trying again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, RESTART_MOST_S)

    async def _watch(self, child: Child) -> None:
        delay: float | None = None
        while True:
            began = time.monotonic()
            assert child.process is not None
            code = await child.process.wait()
            if child.pump is not None:
                child.pump.close()
            delay = restart_delay(delay, time.monotonic() - began)
            self._notify(f"{child.name} {ending(code)}, starting it again in {delay:g} s; log: {child.log_file}")
            await asyncio.sleep(delay)
            child.restarts += 1
            await self._spawn_again(child)

    async def close(self) -> None:
        """SIGTERM, then SIGKILL for what does not end in time; the children marked ``last`` after all others."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for wave in (False, True):
            await asyncio.gather(*(self._stop(child) for child in self.children if child.last is wave))

    async def _stop(self, child: Child) -> None:
        process = child.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_GRACE_S):
                    await process.wait()
            except TimeoutError:
                self._notify(f"{child.name} did not stop within {STOP_GRACE_S:g} s and is killed")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if child.pump is not None:
            child.pump.close()
