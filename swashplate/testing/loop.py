"""An event loop whose time is its own: when nothing is ready, the clock jumps to the next timer, and nobody waits.

What runs in it is one thread's plain code, so the same program with the same random numbers does the same thing in the same
order. There are no sockets, pipes or signals; work for a thread is done on the spot. A process (``swashplate.testing.Process``)
can be killed: none of its code runs any more, not even its ``finally`` blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

from swashplate.testing.process import Process, process_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LIVELOCK = 100_000
"""So many turns of the loop without the clock moving mean that something spins."""


class StalledError(RuntimeError):
    """Nothing will ever happen again, or nothing but spinning, and somebody still waits."""


class VirtualLoop(asyncio.BaseEventLoop):
    """``start`` is what ``loop.time()`` says first, in seconds."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self._now = start
        self._turns = 0
        self._dead: list[Process] = []
        self._ready: Any
        self._scheduled: list[asyncio.TimerHandle]

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._refuse_when_closed()
        handle = asyncio.Handle(callback, args, self, context)
        if self._dead and context is not None and _is_dead(context):
            handle.cancel()
        else:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        raise RuntimeError("a thread wakes the virtual loop: with threads it would not do the same thing every time")

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None, **more: Any) -> Any:
        self._refuse_when_closed()
        context = copy_context() if context is None else context
        task = asyncio.Task(coro, loop=self, name=name, context=context, **more)
        process = process_of(context)
        if process is not None:
            process.holds(task)
        return task

    def _refuse_when_closed(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """On the spot, whatever the executor: time does not pass."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # it belongs to the one who awaits
            done.set_exception(error)
        return done

    def bury(self, process: Process) -> None:
        """From now on nothing of this process runs."""
        self._dead.append(process)
        for handle in (*self._ready, *self._scheduled):
            if process_of(handle._context) is process:  # noqa: SLF001  # asyncio offers no other way
                handle.cancel()

    def dispose(self) -> None:
        """Close the loop and throw away what is left, silently: it never gets the chance to clean up."""
        left = [task for process in self._dead for task in process.tasks if not task.done()]
        left += [task for task in asyncio.all_tasks(self) if not task.done()]
        self._ready.clear()
        self._scheduled.clear()
        self.close()
        with _in_silence():
            for task in left:
                _abandon(task)

    # The standard loop's turn, without its selector.

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled
        while timers and timers[0]._cancelled:  # noqa: SLF001
            heapq.heappop(timers)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise StalledError("nothing is left to happen, and somebody still waits")
            self._now = max(self._now, timers[0].when())
            self._turns = 0
        self._turns += 1
        if self._turns > LIVELOCK:
            raise StalledError(f"{LIVELOCK} turns at {self._now:.3f} s: something spins")
        while timers and timers[0].when() <= self._now:
            ready.append(heapq.heappop(timers))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:  # noqa: SLF001
                handle._run()  # noqa: SLF001

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


def _abandon(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
    coroutine: Any = task.get_coro()
    with contextlib.suppress(BaseException):
        coroutine.close()


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """What is thrown away may complain that it could not clean up."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook


def _is_dead(context: Context) -> bool:
    process = process_of(context)
    return process is not None and not process.alive


@contextlib.contextmanager
def virtual_loop(start: float = 0.0) -> Iterator[VirtualLoop]:
    """A loop to run in, disposed of afterwards."""
    loop = VirtualLoop(start)
    try:
        yield loop
    finally:
        loop.dispose()


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0) -> T:
    """The result of ``main`` in virtual time; like ``asyncio.run``. Raises ``StalledError`` when it would wait for ever."""
    with virtual_loop(start) as loop:
        return loop.run_until_complete(main)
