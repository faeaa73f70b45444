"""Rounds of federated learning, through the manager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swashplate.client.answers import Experiment, Round
from swashplate.client.tasks import AWAY_S, SLACK_S
from swashplate.client.transport import Transport, path_of, query_of
from swashplate.client.waiting import LONG_STEP_S, changes, end_of
from swashplate.messages import ExperimentConfig


class Learning:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def configure(self, config: ExperimentConfig | Mapping[str, Any]) -> Experiment:
        """Begin a round. The round's id makes it harmless to do this twice."""
        body = config.encode() if isinstance(config, ExperimentConfig) else dict(config)
        return await self._transport.post(Experiment, "/fl/experiments", body, again=True, timeout=60 + SLACK_S)

    async def round(self, round_id: str, *, wait: float = 0) -> Round:
        """``wait``: answer when it is over, or that many seconds are."""
        path = path_of("fl", "rounds", round_id, "complete") + query_of(wait=f"{wait:g}" if wait else None)
        document = await self._transport.call("GET", path, timeout=wait + SLACK_S)
        return Round.read(document.get("status") if isinstance(document, dict) else document)

    async def wait(self, round_id: str, *, timeout: float | None = None, away_s: float = AWAY_S) -> Round:
        """The round when it is over; raises as ``Tasks.wait`` does."""
        found = changes(
            lambda wait: self.round(round_id, wait=wait), timeout=timeout, away_s=away_s, step_s=LONG_STEP_S
        )
        return await end_of(found, f"round {round_id}", timeout)
