"""Beside a running guest, in the same process: its stderr handed on, its time and its output held against the limits.

A run of a few milliseconds costs no thread switch: the thread looks at its clock, not at every run.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import time
import traceback

from proplet.sandbox import granted
from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import STDERR, Allowance, Answer, Job, Limits, packed, packed_message
from proplet.sandbox.output import measured

SHORT_S = 0.005
"""A run that ends sooner is not watched; its limits are looked at when it has ended."""
MEASURE_S = 0.25
"""How often a running guest's output is measured at least; between two looks only RLIMIT_FSIZE bounds a single file."""
FASTEST = 2 << 30
"""Bytes a second that a guest may write to memory: the nearer it is to its limit, the sooner it is measured again."""
SOONEST_S = 0.025
MEASURING = 1 / 4
"""The part of the time that may be spent on it."""
CLOSEST_S = 0.01


class Run:
    """One run that goes on, and what it has used so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.logged = 0
        """Bytes written to stderr, those that were dropped included."""
        self.allowance = Allowance(job.limits.log + 1)
        self._began = time.monotonic()
        self._cpu_before = time.process_time()

    def wall_s(self) -> float:
        return time.monotonic() - self._began

    def cpu_s(self) -> float:
        """Of the whole process: the guest, and what the worker does for it."""
        return time.process_time() - self._cpu_before

    def used(self) -> dict[str, float]:
        return {"wall_s": round(self.wall_s(), 6), "cpu_s": round(self.cpu_s(), 6), "log_bytes": self.logged}


def check_time(limits: Limits, wall_s: float, cpu_s: float) -> None:
    """Raises ``GuestError``."""
    if limits.wall_s and wall_s > limits.wall_s:
        raise GuestError(f"the run took {wall_s:.3f} s, {limits.wall_s:g} s is allowed", "deadline", reusable=False)
    if limits.cpu_s and cpu_s > limits.cpu_s:
        raise GuestError(
            f"the run took {cpu_s:.3f} s of processor time, {limits.cpu_s:g} s is allowed", "cpu_limit", reusable=False
        )


class Watch:
    """Beside the runs of one process; it ends the process when a run is over a limit, after telling the agent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pipe, self._write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._lock = _thread.allocate_lock()
        self._run: Run | None = None
        self._last: Run | None = None
        self._next_measure = 0.0
        self._asleep = _thread.allocate_lock()  # the module threading would cost every fork a hundred pages
        self._asleep.acquire()
        self._began = False

    def close(self) -> None:
        """Only of one that has watched nothing."""
        os.close(self._pipe)
        os.close(self._write_end)

    @property
    def stderr(self) -> int:
        """The descriptor that a guest's stderr goes to."""
        return self._write_end

    def begin(self, job: Job) -> Run:
        self._run = self._last = run = Run(job)
        self.wake()
        return run

    def wake(self) -> None:
        """Have the thread look after the run that begins."""
        if not self._began:
            self._began = True
            _thread.start_new_thread(self._serve, ())
        elif self._asleep.locked():
            self._asleep.release()

    def end(self) -> None:
        self._run = None

    def answer(self, answer: Answer) -> None:
        """Send ``answer``, after everything that the guest wrote to stderr."""
        with self._lock:
            self._drain()
            if self._last is not None:
                answer.used["log_bytes"] = self._last.logged
            self._connection.sendall(packed_message(answer))

    def _drain(self) -> None:
        if self._last is None:
            return
        while (text := self._said()) is not None:
            self._last.logged += len(text)
            passed = text[: max(self._last.allowance.left(), 0)]
            if passed:
                self._last.allowance.spend(len(passed))
                self._connection.sendall(packed(STDERR, passed))

    def _said(self) -> bytes | None:
        """None when there is nothing more for now."""
        try:
            return os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return None

    def _serve(self) -> None:
        """Nothing runs unwatched: the process ends with this thread."""
        try:
            while True:
                self._stay()
                self._asleep.acquire()
        except Exception:  # noqa: BLE001
            with contextlib.suppress(OSError):  # stderr may be a file, and larger than one of the guest's may be
                traceback.print_exc()
            os._exit(1)

    def _stay(self) -> None:
        """Until no run has begun for ``SHORT_S``."""
        seen = None
        while seen is not self._last:
            seen = self._last
            time.sleep(SHORT_S)
            run = self._run
            if run is not None and run is seen:
                self._next_measure = 0.0
                while run is self._run:
                    self._look(run)

    def _look(self, run: Run) -> None:
        readable, _, _ = select.select([self._pipe], [], [], self._pause(run))
        with self._lock:
            if readable:
                self._drain()
            if run is not self._run:
                return
            used: dict[str, float] = {}
            try:
                check_time(run.job.limits, run.wall_s(), run.cpu_s())
                if time.monotonic() >= self._next_measure:
                    began = time.monotonic()
                    output = measured(run.job, held=True)
                    used = output.used
                    output.check(run.job.limits)
                    left = min(run.job.limits.output - output.size, granted.room(run.job))
                    self._next_measure = time.monotonic() + _until_next(left, time.monotonic() - began)
            except GuestError as error:
                self._drain()
                answer = Answer(error=error.sentence, code=error.code, reusable=False, used=used | run.used())
                self._connection.sendall(packed_message(answer))
                os._exit(1)

    def _pause(self, run: Run) -> float:
        """Seconds in which no limit of time can be passed, within reason."""
        limits, pause = run.job.limits, self._next_measure - time.monotonic()
        if limits.wall_s:
            pause = min(pause, limits.wall_s - run.wall_s())
        if limits.cpu_s:
            pause = min(pause, limits.cpu_s - run.cpu_s())
        return max(pause, CLOSEST_S)


def _until_next(left: float, took_s: float) -> float:
    """Seconds until what a run has written is measured again, when that took ``took_s`` and it may write ``left`` bytes more."""
    return max(SOONEST_S, took_s / MEASURING, min(MEASURE_S, left / FASTEST))
