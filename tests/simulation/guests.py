"""Guests that do as their task's environment says, in virtual time, and a record of all they did."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from proplet.work.course import Course
from proplet.work.outcome import Failure, Large, Outcome, Success
from swashplate.errors import SwashplateError
from swashplate.messages import Start
from tests.simulation.uploads import SIZE


@dataclass
class Record:
    """What really happened on the proplets; ``produced`` are the outcomes of each attempt, with who had them."""

    produced: dict[tuple[str, int], list[tuple[str, object]]] = field(default_factory=dict)
    running: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    deployed: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    runs: int = 0
    calls: dict[str, list[tuple[str, object]]] = field(default_factory=dict)
    """The same of each call of a latent task."""
    called: Counter[str] = field(default_factory=Counter)
    begun: set[tuple[object, str, int]] = field(default_factory=set)
    twice: list[str] = field(default_factory=list)
    """What one life of a proplet ran more than once."""

    def begins(self, life: object, start: Start) -> None:
        if call := start.env.get("CALL"):
            self.called[call] += 1
            self.runs += 1
            return
        key = life, start.id, start.attempt
        if key in self.begun:
            self.twice.append(f"attempt {start.attempt} of {start.name} ran twice")
        self.begun.add(key)
        self.runs += 1

    def forget(self, proplet_id: str) -> None:
        """It died, and all that ran there with it."""
        for counter in (self.running, self.deployed):
            for key in [key for key in counter if key[0] == proplet_id]:
                del counter[key]

    @asynccontextmanager
    async def counted(self, counter: Counter[tuple[str, str, int]], key: tuple[str, str, int]) -> AsyncIterator[None]:
        counter[key] += 1
        try:
            yield
        finally:
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]


class ScriptedGuests:
    """Stands where a proplet's ``Runner`` stands."""

    def __init__(self, proplet_id: str, slots: int, record: Record) -> None:
        self._proplet_id = proplet_id
        self._slots = asyncio.Semaphore(slots)
        self._record = record

    async def perform(self, start: Start, course: Course) -> Outcome:
        script = start.env.get("DOES", "ok:0").split(",")
        kind, _, seconds = script[min(start.attempt, len(script)) - 1].partition(":")
        course.enter("waiting")
        running = contextlib.nullcontext() if "CALL" in start.env else self._running(start)
        async with self._slots, running:
            course.enter("running")
            self._record.begins(self, start)
            await asyncio.sleep(1e6 if kind == "hang" else float(seconds))
        outcome: Outcome
        what = f"{start.id}/{start.attempt}/{self._proplet_id}/{self._record.runs}"
        match kind:
            case "ok":
                outcome = Success(what)
            case "large":
                outcome = Large("sha256:" + hashlib.sha256(what.encode()).hexdigest(), SIZE)
            case "trap":
                outcome = Failure("wasm trap: unreachable", "trap:unreachable")
            case _:
                outcome = Failure("out of luck", "internal", retryable=True)
        match outcome:
            case Success(said) | Large(said) | Failure(said):
                pass
        if call := start.env.get("CALL"):
            self._record.calls.setdefault(call, []).append((self._proplet_id, said))
        else:
            self._record.produced.setdefault((start.id, start.attempt), []).append((self._proplet_id, said))
        return outcome

    def check(self, start: Start) -> None:
        """Everything is taken."""

    @asynccontextmanager
    async def deployed(self, start: Start, course: Course) -> AsyncIterator[None]:
        course.enter("fetching")
        await asyncio.sleep(0.2)
        if start.env.get("DEPLOYS") == "never":
            raise SwashplateError("it does not compile", code="compile_failed")
        async with self._record.counted(self._record.deployed, self._key(start)):
            yield

    def _running(self, start: Start) -> AbstractAsyncContextManager[None]:
        return self._record.counted(self._record.running, self._key(start))

    def _key(self, start: Start) -> tuple[str, str, int]:
        return self._proplet_id, start.id, start.attempt
