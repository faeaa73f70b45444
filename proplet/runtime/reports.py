"""What is known of a run, from its terms to its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from proplet.policy.terms import Terms
from proplet.runtime.guest_log import GuestLog
from proplet.sandbox.frames import Answer
from swashplate.messages import RunReport


class Reporting:
    """Can be asked for a report at any time: a run that is stopped or too late has one too."""

    def __init__(self, terms: Terms, guest_log: GuestLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._terms = terms
        self.log = guest_log
        self._clock = clock
        self._began: float | None = None
        self._answer = Answer()

    def begins(self) -> None:
        self._began = self._clock()

    def ended(self, answer: Answer) -> None:
        self._answer = answer

    def report(self) -> RunReport:
        """A process that was killed has not told what it used but for the time."""
        used = dict(self._answer.used)
        if "wall_s" not in used and self._began is not None:
            used["wall_s"] = round(self._clock() - self._began, 6)
        return RunReport(
            isolation=self._terms.isolation,
            deterministic=self._terms.deterministic,
            limits=dict(self._terms.allowed),
            used=used,
            capabilities=self._terms.granted,
            log_tail=self.log.tail,
            inputs_digest=self._answer.inputs_digest or None,
            output_digest=self._answer.output_digest or None,
        )
