"""The model that a round starts from does not change from the first launch until the round's own model is stored.

Looking at it marks nothing, so a request that launches nobody leaves it free. Once somebody trains, the registry is told
in the background, together with the digest that the round has seen: a model that was replaced in between fails the round.
"""

from __future__ import annotations

from coordinator.live import LiveRound, LiveRounds
from coordinator.peers import RegistryPeer
from coordinator.retrying import insist
from coordinator.states import RoundEvent
from swashplate.errors import SwashplateError
from swashplate.service import Tasks


class Bases:
    def __init__(self, registry: RegistryPeer, rounds: LiveRounds, tasks: Tasks) -> None:
        self._registry = registry
        self._rounds = rounds
        self._tasks = tasks

    def hold(self, live: LiveRound) -> None:
        """In the background and once; whoever needs the outcome waits for ``live.hold``."""
        if live.hold is None and not live.base_final:
            live.hold = self._tasks.start(self._hold(live), f"hold the base of round {live.round.id}")

    async def _hold(self, live: LiveRound) -> None:
        round_ = live.round

        async def use() -> None:
            if not live.over.is_set():
                await self._registry.use(round_.base, round_.base_digest, round_.id)

        try:
            await insist("model registry", round_.id, use)
        except SwashplateError as error:
            await self._rounds.finish(live, RoundEvent.BASE_LOST, code=error.code, error=error.sentence)
