"""What is being done with an attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proplet.work.outgoing import Ref
from proplet.work.task_logs import LogStream
from swashplate.messages import RunReport
from swashplate.messages.control import Stage


def _untold(_course: Course) -> None:
    return None


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Spent:
    """By a process so far: seconds of processor time, bytes read from storage and written to it."""

    cpu_s: float = 0.0
    read: int = 0
    written: int = 0


@dataclass(slots=True, eq=False)
class Process:
    """The worker that runs a guest, from the loop's time ``since`` on. What it had spent ``before`` was for other guests;
    ``after`` is None until the guest has ended, and stays so when the worker ended with it.
    """

    pid: int
    since: float
    before: Spent
    after: Spent | None = None


@dataclass(slots=True, eq=False)
class Course:
    """``process`` is None before any worker runs the guest; a compilation lies between two. The stage is empty at both ends.

    ``report`` says, once there is something to say, how the run goes; ``log`` takes what the guest writes to stderr, when
    somebody wants it.
    """

    ref: Ref
    on_stage: Callable[[Course], None] = _untold
    stage: Stage = ""
    process: Process | None = None
    report: Callable[[], RunReport | None] = _nothing
    log: LogStream | None = None

    def enter(self, stage: Stage) -> None:
        if stage != self.stage:
            self.stage = stage
            self.on_stage(self)
