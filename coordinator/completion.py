"""From enough updates to a model that can be read: aggregate, store, complete, announce. Each step can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from coordinator.announcer import Announcer
from coordinator.live import LiveRound, LiveRounds
from coordinator.peers import AggregatorPeer, RegistryPeer, may_change
from coordinator.records import Participants, ReceivedUpdate, Round
from coordinator.states import RoundEvent
from coordinator.store import RoundStore
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import RoundNext
from swashplate.service import Tasks

log = logging.get("rounds")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
STRATEGY = "fedavg"

Answer = TypeVar("Answer")


class Completion:
    def __init__(
        self,
        store: RoundStore,
        rounds: LiveRounds,
        aggregator: AggregatorPeer,
        registry: RegistryPeer,
        announcer: Announcer,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._aggregator = aggregator
        self._registry = registry
        self._announcer = announcer
        self._tasks = tasks

    def start(self, live: LiveRound) -> None:
        """Aggregate in the background."""
        self._tasks.start(self._complete(live), f"aggregate round {live.round.id}")

    def announce(self, round_: Round) -> None:
        """Tell the world in the background, until the broker has taken it."""
        self._tasks.start(self._announce(round_), f"announce round {round_.id}")

    async def _complete(self, live: LiveRound) -> None:
        round_ = live.round
        try:
            updates = await self._store.updates(round_.id)
            log.info("Calling aggregator service", round_id=round_.id, updates=len(updates))
            model = await insist("aggregator", round_.id, lambda: self._aggregator.aggregate(updates))
            about = lineage(round_, live.participants, updates)
            stored = await insist(
                "model registry", round_.id, lambda: self._registry.store(round_.base, round_.id, model, about)
            )
        except SwashplateError as error:
            await self._rounds.finish(live, RoundEvent.MODEL_REFUSED, code=error.code, error=error.sentence)
            return
        log.info("Aggregated model stored", round_id=round_.id, version=stored.version)
        completed = await self._rounds.finish(
            live, RoundEvent.MODEL_STORED, model_version=stored.version, model_digest=stored.digest
        )
        self.announce(completed)

    async def _announce(self, round_: Round) -> None:
        model = round_.model
        assert model is not None
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        news = RoundNext(round_id=round_.id, new_model_version=model.version, model_uri=model.uri, timestamp=now)
        self._tasks.start(self._announcer.announce_bare(news), f"announce round {round_.id} on the bare topic")
        await insist("MQTT broker", round_.id, lambda: self._announcer.announce(news))
        log.info("Published round completion notification to MQTT", round_id=round_.id, new_model_version=model.version)
        await self._store.save(round_.id, round_=replace(round_, announced=True))


def lineage(round_: Round, participants: Participants, updates: Iterable[ReceivedUpdate]) -> dict[str, Any]:
    """What a reader of the model may want to know about how it came to be."""
    digests = sorted({p.wasm_digest for p in participants.values() if p.wasm_digest})
    return {
        "strategy": STRATEGY,
        "experiment_id": round_.config.experiment_id,
        "base_digest": round_.base_digest,
        "task_wasm_image": round_.config.task_wasm_image,
        "wasm_digests": digests,
        "hyperparams": round_.config.hyperparams,
        "updates": [
            {"proplet_id": u.proplet_id, "num_samples": u.key.num_samples, "digest": u.key.digest} for u in updates
        ],
    }


async def insist(what: str, round_id: str, request: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat the request while its failure can pass; raises the ``SwashplateError`` that cannot."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await request()
        except SwashplateError as error:
            if not may_change(error):
                raise
            log.warning("no answer, trying again", peer=what, round_id=round_id, error=error.sentence)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
