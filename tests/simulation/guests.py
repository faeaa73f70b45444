"""Guests that do as their task's environment says, in virtual time, and a record of all they did."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from proplet.attempt import Failure, Outcome, Success
from swashplate.messages import Start


@dataclass
class Record:
    """What really happened on the proplets; ``produced`` are the outcomes of each attempt, with who had them."""

    produced: dict[tuple[str, int], list[tuple[str, object]]] = field(default_factory=dict)
    running: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    runs: int = 0

    def forget(self, proplet_id: str) -> None:
        """It died, and all that ran there with it."""
        for key in [key for key in self.running if key[0] == proplet_id]:
            del self.running[key]


class ScriptedRunner:
    """Stands where a proplet's ``Runner`` stands."""

    def __init__(self, proplet_id: str, slots: int, record: Record) -> None:
        self._proplet_id = proplet_id
        self._slots = asyncio.Semaphore(slots)
        self._record = record

    async def perform(self, start: Start) -> Outcome:
        script = start.env.get("DOES", "ok:0").split(",")
        kind, _, seconds = script[min(start.attempt, len(script)) - 1].partition(":")
        async with self._slots:
            key = self._proplet_id, start.id, start.attempt
            self._record.running[key] += 1
            self._record.runs += 1
            try:
                await asyncio.sleep(float(seconds) if kind != "hang" else 1e6)
            finally:
                self._record.running[key] -= 1
                if not self._record.running[key]:
                    del self._record.running[key]
        outcome: Outcome
        match kind:
            case "ok":
                outcome = Success(f"{start.id}/{start.attempt}/{self._proplet_id}/{self._record.runs}")
            case "trap":
                outcome = Failure("wasm trap: unreachable", "guest_trap")
            case _:
                outcome = Failure("out of luck", "internal", retryable=True)
        said = outcome.results if isinstance(outcome, Success) else outcome.error
        self._record.produced.setdefault((start.id, start.attempt), []).append((self._proplet_id, said))
        return outcome
