"""The coordinator's service: rounds are asked for, updates come in, tasks end, and what is interrupted is taken up again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from weakref import WeakValueDictionary

from coordinator import updates, views
from coordinator.completion import Completion
from coordinator.launching import Launcher, task_of
from coordinator.legacy import LegacyParticipants
from coordinator.live import LiveRound, LiveRounds, News
from coordinator.messages import NextRound, RoundPage, RoundView
from coordinator.offload import offload
from coordinator.peers import RegistryPeer
from coordinator.records import Participant, Participants, Round
from coordinator.states import ParticipantEvent, ParticipantState, RoundState
from coordinator.store import RoundStore
from coordinator.tokens import Tokens
from swashplate import logging
from swashplate.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from swashplate.messages import (
    PROPLET_IDS_HINT,
    ExperimentAnswer,
    ExperimentConfig,
    RoundStatus,
    RoundTask,
    Update,
    UpdateAnswer,
)
from swashplate.model_ref import ModelRef

log = logging.get("rounds")

_STILL_LAUNCHING = {ParticipantState.PENDING, ParticipantState.LAUNCHED}


class Rounds:
    def __init__(
        self,
        store: RoundStore,
        live: LiveRounds,
        launcher: Launcher,
        completion: Completion,
        registry: RegistryPeer,
        tokens: Tokens,
        legacy: LegacyParticipants,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._live = live
        self._launcher = launcher
        self._completion = completion
        self._registry = registry
        self._tokens = tokens
        self._legacy = legacy
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        """Know the rounds that an earlier life of this process left open, before anything about them can arrive."""
        for round_, participants in await self._store.unfinished():
            live = self._live.add(round_, participants, await self._store.update_keys(round_.id))
            log.info("round resumed", round_id=round_.id, state=round_.state.value, updates=len(live.keys))

    async def resume(self) -> None:
        """Go on where that life stopped: launches, aggregations, announcements."""
        for round_ in await self._store.unannounced():
            self._completion.announce(round_)
        for live in self._live.all():
            self._live.hold_if_needed(live)
            if live.open:
                waiting = [p.proplet_id for p in live.participants.values() if p.state in _STILL_LAUNCHING]
                self._launcher.keep_trying(live, waiting, pause=0)
            else:
                self._completion.start(live)

    async def configure(self, config: ExperimentConfig) -> tuple[ExperimentAnswer, bool]:
        """Start a round; also says whether it is new. The same request again gets the same answer and starts nothing.

        Raises ``ConflictError``: ``round_conflict`` when the id belongs to another request, ``no_participants`` when
        nobody could be launched.
        """
        log.info("Received experiment configuration", round_id=config.round_id, experiment_id=config.experiment_id)
        config = config.model_copy(update={"k_of_n": config.k_of_n or len(config.participants)})
        async with self._turn(config.round_id):
            known = await self._store.find(config.round_id)
            if known is not None:
                round_, participants = known
                if round_.config != config:
                    raise ConflictError(
                        f"round {round_.id} already exists with another configuration",
                        code="round_conflict",
                        hint="choose another round_id",
                    )
                return _answer(round_, participants), False
            live = await self._create(config)
            news = await self._launcher.launch(live.round, config.participants)
            try:
                round_ = await self._live.hear(live, news, first=True)
            except UnavailableError:
                self._launcher.keep_trying(live, config.participants)  # as after a crash; the keys are the same
                raise
            postponed = [one.proplet_id for one in news if one.event is ParticipantEvent.POSTPONED]
            self._launcher.keep_trying(live, postponed)
            return _answer(round_, live.participants), True

    async def accept(self, update: Update, body: bytes, token: str) -> UpdateAnswer:
        """Count the update that was read from ``body``, once; it is on the disk when this returns.

        Raises a 4xx error that names the reason.
        """
        live = self._live.find(update.round_id)
        round_, participants = (live.round, live.participants) if live else await self._find(update.round_id)
        updates.check_participant(round_, participants, update)
        if token:
            updates.check_token(round_, self._tokens, update, token)
        else:
            await self._legacy.admit(round_.id, update.proplet_id)
        updates.check_base(round_, update)
        try:
            received = await offload(len(body), updates.receive, round_, update, body, self._clock())
        except InvalidRequestError:
            if round_.state is RoundState.CONFIGURED:
                raise
            return UpdateAnswer(status="ignored", code="round_closed")
        if live is not None:
            outcome = await self._live.accept(live, received)
        else:
            known = (await self._store.update_keys(round_.id)).get(update.proplet_id)
            outcome = "duplicate" if known == received.key else "ignored"
        return UpdateAnswer(status=outcome, code="round_closed" if outcome == "ignored" else None)

    async def task_ended(self, ended: RoundTask) -> None:
        """The manager says that a participant's task is over. A completed task has sent its update or is about to; it is
        worth a write only when it ran a guest that is new to the round.
        """
        live = self._live.find(ended.round_id)
        if live is None:
            return
        if ended.proplet_id not in live.participants:
            raise NotFoundError(f"{ended.proplet_id} is not a participant of round {ended.round_id}")
        if ended.status == "completed":
            if not ended.digest or any(p.wasm_digest == ended.digest for p in live.participants.values()):
                return
            news = News(ended.proplet_id, ParticipantEvent.COMPLETED, task_id=ended.task_id, wasm_digest=ended.digest)
        else:
            code = ended.code or f"task_{ended.status}"
            reason = ended.error or f"its task is {ended.status}"
            news = News(ended.proplet_id, ParticipantEvent.ENDED, task_id=ended.task_id, code=code, error=reason)
        await self._live.hear_surely(live, news)

    async def status(self, round_id: str, *, wait: float = 0) -> RoundStatus:
        """How a round stands; waits up to ``wait`` seconds for its end. Raises ``NotFoundError``."""
        live = self._live.find(round_id)
        if wait:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    async with self._turn(round_id):  # one that is being configured is on the disk before it is live
                        live = self._live.find(round_id) or live
                    if live is not None:
                        await live.over.wait()
        if live is not None:  # it is what is on the disk, also once it is over
            return views.status(live.round, len(live.keys))
        round_, _ = await self._find(round_id)
        return views.status(round_, len(await self._store.update_keys(round_id)))

    async def view(self, round_id: str) -> RoundView:
        """Everything about a round. Raises ``NotFoundError``."""
        round_, participants = await self._find(round_id)
        keys, metrics = await self._store.update_keys(round_id), await self._store.metrics(round_id)
        return views.view(round_, participants, keys, metrics, now=self._clock())

    async def page(self, *, offset: int, limit: int) -> RoundPage:
        total, found = await self._store.page(offset=offset, limit=limit)
        shown = [views.summary(round_, number, now=self._clock()) for round_, number in found]
        return RoundPage(offset=offset, limit=limit, total=total, rounds=shown)

    async def next_round(self) -> NextRound:
        return views.next_round(await self._store.last_completed())

    async def config(self, round_id: str) -> tuple[ExperimentConfig, ModelRef]:
        """What a round was asked for, and the model it starts from. Raises ``NotFoundError``."""
        round_, _ = await self._find(round_id)
        return round_.config, round_.base

    async def _create(self, config: ExperimentConfig) -> LiveRound:
        """A new open round on the disk, of a model that exists; nothing is launched yet."""
        now = self._clock()
        draft = Round(
            config=config,
            base=ModelRef.parse(config.model_ref),
            base_digest="",
            base_shapes={},
            k_of_n=config.k_of_n or len(config.participants),
            created_at=now,
            deadline=now + config.timeout_s,
        )
        longest = max(config.participants, key=len)
        task_of(draft, longest, token=self._tokens.of(draft.id, longest), seconds=config.timeout_s)
        base = await self._registry.describe(draft.base)
        log.info("Loaded initial model from registry", round_id=draft.id, model_uri=draft.base.uri)
        round_ = replace(draft, base_digest=base.digest, base_shapes=base.shapes)
        participants = {proplet_id: Participant(proplet_id) for proplet_id in config.participants}
        await self._store.add(round_, participants.values())
        log.info(
            "Experiment configured and round initialized",
            round_id=round_.id,
            participants=len(participants),
            k_of_n=round_.k_of_n,
            timeout_s=config.timeout_s,
        )
        live = self._live.add(round_, participants, {})
        live.base_final = base.final
        return live

    async def _find(self, round_id: str) -> tuple[Round, Participants]:
        found = await self._store.find(round_id)
        if found is None:
            raise NotFoundError("Round not found", code="round_not_found", hint=f"there is no round {round_id!r}")
        return found

    def _turn(self, round_id: str) -> asyncio.Lock:
        """Held by whoever configures this round; gone when nobody does."""
        lock = self._turns.get(round_id)
        if lock is None:
            lock = self._turns[round_id] = asyncio.Lock()
        return lock


def _answer(round_: Round, participants: Participants) -> ExperimentAnswer:
    if round_.state is RoundState.CANCELLED:
        unknown = any(p.code == "proplet_not_found" for p in participants.values())
        hint = PROPLET_IDS_HINT if unknown else "GET /proplets of the manager lists who is there and alive"
        raise ConflictError(round_.error, code=round_.code, hint=hint)
    if not round_.answer:  # interrupted before anybody was answered; its launches were taken up again since
        return views.experiment_answer(round_, participants)
    return ExperimentAnswer.decode(round_.answer)
