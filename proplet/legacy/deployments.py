"""Latent tasks of a Propeller manager: deployed once, called by message, and forgotten with the process.

Its manager deploys again when it is told that a task has not been precompiled.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from proplet.work.course import Course
from proplet.work.endings import Guests
from proplet.work.outcome import STOPPED, Failure, Outcome, Success
from proplet.work.outgoing import Ref
from proplet.work.starts import called, checked_invoke
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import Invoke, Start
from swashplate.messages.legacy import LegacyInvoke, LegacyInvokeResult

log = logging.get("legacy")

CALL_S = 300.0
"""The old protocol has no deadline for a call; its manager waits half a minute."""
ANSWER_WITHIN_S = 30.0


class Say(Protocol):
    async def __call__(self, kind: str, payload: bytes, *, timeout: float) -> None: ...


@dataclass
class _Deployment:
    start: Start
    turns: asyncio.Semaphore
    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    ended: bool = False


class LegacyDeployments:
    def __init__(self, proplet_id: str, slots: int, guests: Guests, say: Say) -> None:
        self._id = proplet_id
        self._slots = slots
        self._guests = guests
        self._say = say
        self._ready: dict[str, _Deployment] = {}

    def __len__(self) -> int:
        return len(self._ready)

    async def serve(self, start: Start) -> None:
        """Until it is cancelled, which ends the calls too. Raises ``SwashplateError`` when it cannot be deployed."""
        async with self._guests.deployed(start, Course(Ref(start.id, start.attempt))):
            deployment = self._ready[start.id] = _Deployment(start, asyncio.Semaphore(self._slots))
            log.info("latent task is ready", task_id=start.id)
            try:
                await asyncio.Event().wait()
            finally:
                del self._ready[start.id]
                deployment.ended = True
                for call in deployment.calls:
                    call.cancel()

    async def called(self, invoke: LegacyInvoke) -> None:
        outcome = await self._outcome(invoke)
        results, error = "", None
        match outcome:
            case Success(value):
                results = value if isinstance(value, str) else json.dumps(value)
            case Failure(sentence):
                error = sentence
        said = LegacyInvokeResult(
            task_id=invoke.id, invocation_id=invoke.invocation_id, proplet_id=self._id, results=results, error=error
        )
        await self._say("invoke_results", said.encode(), timeout=ANSWER_WITHIN_S)

    async def _outcome(self, invoke: LegacyInvoke) -> Outcome:
        deployment = self._ready.get(invoke.id)
        if deployment is None:
            return Failure(f"task {invoke.id} has not been precompiled", "not_deployed")
        this = asyncio.current_task()
        assert this is not None
        deployment.calls.add(this)
        try:
            async with asyncio.timeout(CALL_S), deployment.turns:
                course = Course(Ref(invoke.id, deployment.start.attempt, invoke.invocation_id))
                return await self._guests.perform(_call_of(deployment.start, invoke), course)
        except TimeoutError:
            return Failure(f"timed out after {CALL_S:g} s", "timeout")
        except SwashplateError as error:
            return Failure(error.sentence, error.code)
        except asyncio.CancelledError:
            if not deployment.ended:
                raise
            this.uncancel()
            return STOPPED
        finally:
            deployment.calls.discard(this)


def _call_of(start: Start, invoke: LegacyInvoke) -> Start:
    """Raises ``InvalidRequestError`` for text that no guest can be given."""
    ours = Invoke(
        invocation_id="call",
        task_id=start.id,
        attempt=start.attempt,
        proplet_id=start.proplet_id,
        inputs=invoke.inputs,
        env=invoke.env,
        timeout_s=CALL_S,
    )
    return called(start, checked_invoke(ours))
