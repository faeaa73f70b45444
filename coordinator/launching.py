"""A round's tasks: one per participant, asked of the manager under a key that makes asking twice harmless."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from coordinator.live import LiveRound, LiveRounds, News
from coordinator.peers import ManagerPeer, NotNowError
from coordinator.records import Round
from coordinator.retrying import FIRST_PAUSE, LONGEST_PAUSE
from coordinator.states import ParticipantEvent
from coordinator.tokens import Tokens
from swashplate import logging
from swashplate.errors import SwashplateError, from_validation
from swashplate.messages import TaskCreate
from swashplate.service import Tasks

log = logging.get("rounds")

AT_ONCE = 32
"""Launches of one round that are under way together."""
RETRIES = 2
_NEVER_UPDATES = {"failed", "interrupted"}


def task_of(round_: Round, proplet_id: str, *, token: str, seconds: float) -> TaskCreate:
    """The task of one participant; raises ``InvalidRequestError`` when no such task can be made."""
    env = {"ROUND_ID": round_.id, "MODEL_URI": round_.base.uri}
    if round_.config.hyperparams:
        env["HYPERPARAMS"] = json.dumps(round_.config.hyperparams, separators=(",", ":"))
    try:
        return TaskCreate(
            name=f"fl-round-{round_.id}-{proplet_id}",
            kind="federated",
            image_url=round_.config.task_wasm_image,
            proplet_id=proplet_id,
            env=env,
            tokens={"update": token},
            retries=RETRIES,
            timeout_s=seconds,
            start=True,
        )
    except ValidationError as error:
        raise from_validation(error, f"the task of {proplet_id}") from error


class Launcher:
    def __init__(
        self, manager: ManagerPeer, tokens: Tokens, rounds: LiveRounds, tasks: Tasks, clock: Callable[[], float]
    ) -> None:
        self._manager = manager
        self._tokens = tokens
        self._rounds = rounds
        self._tasks = tasks
        self._clock = clock

    async def launch(self, round_: Round, proplet_ids: Iterable[str]) -> list[News]:
        """Ask the manager once for each participant; what it said, in the same order."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(proplet_id: str) -> News:
            async with turns:
                return await self._launch(round_, proplet_id)

        return list(await asyncio.gather(*map(one, proplet_ids)))

    def keep_trying(self, live: LiveRound, proplet_ids: Iterable[str], *, pause: float = FIRST_PAUSE) -> None:
        """Ask again, in the background, until the manager has launched it, refuses it, or the round has closed."""
        for proplet_id in proplet_ids:
            self._tasks.start(self._keep_trying(live, proplet_id, pause), f"launch {live.round.id}/{proplet_id}")

    async def _keep_trying(self, live: LiveRound, proplet_id: str, pause: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.over.wait(), pause)
            if not live.open:
                return
            news = await self._launch(live.round, proplet_id)
            await self._rounds.hear_surely(live, news)
            if news.event is not ParticipantEvent.POSTPONED:
                return
            pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)

    async def _launch(self, round_: Round, proplet_id: str) -> News:
        seconds = round_.deadline - self._clock()
        if seconds <= 0:
            return News(proplet_id, ParticipantEvent.POSTPONED, code="timeout", error="the round's time is over")
        token = self._tokens.of(round_.id, proplet_id)
        key = f"{round_.id}/{proplet_id}"
        try:
            task = await self._manager.launch(task_of(round_, proplet_id, token=token, seconds=seconds), key)
        except NotNowError as error:
            return News(proplet_id, ParticipantEvent.POSTPONED, code=error.code, error=error.sentence)
        except SwashplateError as error:
            log.warning(
                "skipping participant",
                round_id=round_.id,
                proplet_id=proplet_id,
                reason=error.sentence,
                hint=error.hint,
            )
            return News(proplet_id, ParticipantEvent.REFUSED, code=error.code, error=_reason(error))
        if task.status in _NEVER_UPDATES:
            error_text = task.error or f"its task is {task.status}"
            return News(
                proplet_id, ParticipantEvent.ENDED, task_id=task.id, code=f"task_{task.status}", error=error_text
            )
        return News(proplet_id, ParticipantEvent.LAUNCHED, task_id=task.id, wasm_digest=task.digest)


def _reason(error: SwashplateError) -> str:
    return "not found" if error.code == "proplet_not_found" else error.sentence
