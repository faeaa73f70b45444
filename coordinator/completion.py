"""From enough updates to a model that can be read: aggregate, store, complete, announce. Each step can be repeated."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from coordinator.announcer import Announcer
from coordinator.live import LiveRound, LiveRounds
from coordinator.peers import AggregatorPeer, ManagerPeer, RegistryPeer
from coordinator.records import Participants, ReceivedUpdate, Round
from coordinator.retrying import insist
from coordinator.states import ParticipantState, RoundEvent
from coordinator.store import RoundStore
from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.messages import RoundNext
from swashplate.service import Tasks

log = logging.get("rounds")

STRATEGY = "fedavg"
MANAGER_PATIENCE = 0.25
"""Seconds: what the lineage may say about the guest is not worth a round's waiting."""


class Completion:
    def __init__(
        self,
        store: RoundStore,
        rounds: LiveRounds,
        aggregator: AggregatorPeer,
        registry: RegistryPeer,
        manager: ManagerPeer,
        announcer: Announcer,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._aggregator = aggregator
        self._registry = registry
        self._manager = manager
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
        guest = self._tasks.start(self._guest(live.participants), f"ask for the guest of round {round_.id}")
        try:
            updates = await insist("database", round_.id, lambda: self._store.updates(round_.id))
            log.info("Calling aggregator service", round_id=round_.id, updates=len(updates))
            model = await insist("aggregator", round_.id, lambda: self._aggregator.aggregate(updates))
            about = lineage(round_, live.participants, updates, await guest)
            if live.hold is not None:
                await live.hold
            if live.round.over:
                return
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
        noted = replace(round_, announced=True)
        await insist("database", round_.id, lambda: self._store.save(round_.id, round_=noted))

    async def _guest(self, participants: Participants) -> str:
        """The digest of the WASM that a participant ran, when only the manager knows it and can say so at once."""
        if not any(p.wasm_digest for p in participants.values()):
            for p in participants.values():
                if p.state is ParticipantState.UPDATED and p.task_id:
                    with suppress(SwashplateError):
                        return (await self._manager.task(p.task_id, timeout=MANAGER_PATIENCE)).digest
                    break
        return ""


def lineage(round_: Round, participants: Participants, updates: Iterable[ReceivedUpdate], guest: str) -> dict[str, Any]:
    """What a reader of the model may want to know about how it came to be."""
    digests = sorted({guest, *(p.wasm_digest for p in participants.values())} - {""})
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
