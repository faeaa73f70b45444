"""What is being done with an attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proplet.work.outgoing import Ref
from proplet.work.task_logs import LogStream
from swashplate.messages.control import Stage


def _untold(_course: Course) -> None:
    return None


@dataclass(slots=True, eq=False)
class Course:
    """``process`` is the id of the worker that runs the guest, None while none does. The stage is empty at both ends.

    ``log`` takes what the guest writes to stderr, when somebody wants it.
    """

    ref: Ref
    on_stage: Callable[[Course], None] = _untold
    stage: Stage = ""
    process: int | None = None
    log: LogStream | None = None

    def enter(self, stage: Stage) -> None:
        if stage != self.stage:
            self.stage = stage
            self.on_stage(self)
