"""The rounds that are not over: in memory what is on the disk, so that accepting an update reads nothing.

Every change goes to the disk first, in one transaction, under the round's own lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.decisions import LOST, Aggregate, Fail, decide, nobody_launched, reasons
from coordinator.records import Participant, Participants, ReceivedUpdate, Round, UpdateKey
from coordinator.retrying import insist
from coordinator.states import (
    OVER,
    ParticipantEvent,
    ParticipantState,
    RoundEvent,
    RoundState,
    participant_after,
    round_after,
)
from coordinator.store import RoundStore
from coordinator.views import experiment_answer
from swashplate import logging
from swashplate.errors import ConflictError, UnavailableError
from swashplate.service import Tasks

log = logging.get("rounds")


@dataclass(frozen=True, slots=True)
class News:
    """What the manager said about one participant's task."""

    proplet_id: str
    event: ParticipantEvent
    task_id: str = ""
    code: str = ""
    error: str = ""
    wasm_digest: str = ""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An update that is not on the disk yet, and what its sender will be told."""

    received: ReceivedUpdate
    outcome: asyncio.Future[str]

    def settle(self, outcome: str | Exception) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class LiveRound:
    """One round and its waiters; ``over`` is set once its end is on the disk."""

    def __init__(self, round_: Round, participants: Participants, keys: Mapping[str, UpdateKey]) -> None:
        self.round = round_
        self.participants = dict(participants)
        self.keys = dict(keys)
        self.arrived: list[Arrived] = []
        self.lock = asyncio.Lock()
        self.over = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.base_final = False
        """Is it known that the model it starts from never changes?"""
        self.hold: asyncio.Task[None] | None = None
        """Sees to it that it does not."""

    @property
    def open(self) -> bool:
        return self.round.state is RoundState.CONFIGURED


class LiveRounds:
    """``hold`` is called when somebody trains on a round's base, ``aggregate`` when a round has enough updates; both must
    return at once.
    """

    def __init__(self, store: RoundStore, tasks: Tasks, clock: Callable[[], float]) -> None:
        self._store = store
        self._tasks = tasks
        self._clock = clock
        self._rounds: dict[str, LiveRound] = {}
        self.hold: Callable[[LiveRound], None] = lambda _: None
        self.aggregate: Callable[[LiveRound], None] = lambda _: None

    def find(self, round_id: str) -> LiveRound | None:
        return self._rounds.get(round_id)

    def all(self) -> list[LiveRound]:
        return list(self._rounds.values())

    def add(self, round_: Round, participants: Participants, keys: Mapping[str, UpdateKey]) -> LiveRound:
        """Take up a round that is on the disk, and wake up at its deadline."""
        live = self._rounds[round_.id] = LiveRound(round_, participants, keys)
        if live.open:
            self._arm(live)
        return live

    def close(self) -> None:
        for live in self._rounds.values():
            _disarm(live)

    async def accept(self, live: LiveRound, received: ReceivedUpdate) -> str:
        """``accepted``, ``duplicate`` or ``ignored`` (the round closed meanwhile); raises ``ConflictError``."""
        arrived = Arrived(received, asyncio.get_running_loop().create_future())
        live.arrived.append(arrived)
        async with live.lock:
            while not arrived.outcome.done():
                await self._take_in(live)
        return await arrived.outcome

    async def _take_in(self, live: LiveRound) -> None:
        """The updates that have arrived, one of each participant, with one write: those of a round come together."""
        round_, waiting, live.arrived = live.round, live.arrived, []
        taken: dict[str, Arrived] = {}
        changed: list[Participant] = []
        for each in waiting:
            proplet_id = each.received.proplet_id
            if proplet_id in taken or round_.state is not live.round.state:
                live.arrived.append(each)  # what it is told depends on this write
            elif (refusal := self._refusal(live, each.received)) is not None:
                each.settle(refusal)
            else:
                participant = live.participants[proplet_id]
                state = participant_after(participant.state, ParticipantEvent.UPDATED)
                ended_at = each.received.received_at
                changed.append(replace(participant, state=state, ended_at=ended_at, code="", error=""))
                taken[proplet_id] = each
                round_ = self._decided(live, changed)
        outcome: str | Exception = UnavailableError("the coordinator is stopping")
        try:
            await self._commit(live, round_, changed, [each.received for each in taken.values()])
            outcome = "accepted"
        except Exception as error:  # noqa: BLE001  # it belongs to those whose updates these are
            outcome = error
        finally:
            for each in taken.values():
                each.settle(outcome)

    @staticmethod
    def _refusal(live: LiveRound, received: ReceivedUpdate) -> str | Exception | None:
        """What its sender is told when this update does not count."""
        known = live.keys.get(received.proplet_id)
        if known == received.key:
            return "duplicate"
        if not live.open:
            return "ignored"
        if known is None:
            return None
        return ConflictError(
            f"{received.proplet_id} already sent another update for round {live.round.id}",
            code="update_conflict",
            hint="the first update counts; a participant sends one per round",
        )

    async def hear(self, live: LiveRound, news: Iterable[News], *, first: bool = False) -> Round:
        """Take in what the manager said; said again, or after the round's end, it changes nothing.

        The ``first`` launches decide what the request for the round is answered, and cancel it when nobody could be
        launched.
        """
        async with live.lock:
            if live.round.over and not first:
                return live.round
            changed = [p for one in news if (p := self._told(live.participants[one.proplet_id], one)) is not None]
            after = _with(live.participants, changed)
            round_ = live.round
            if first and live.open and nobody_launched(after):
                error = f"no participant could be launched: {reasons(list(after.values()))}"
                round_ = self._ended(round_, RoundEvent.NOBODY_LAUNCHED, "no_participants", error)
            elif live.open:
                round_ = self._decided(live, changed)
            if first:
                round_ = replace(round_, answer=experiment_answer(round_, after).encode().decode())
            await self._commit(live, round_, changed)
            return live.round

    async def hear_surely(self, live: LiveRound, news: News) -> None:
        """Take in what nobody will say again, as soon as the database can."""
        await insist("database", live.round.id, lambda: self.hear(live, [news]))

    async def finish(self, live: LiveRound, event: RoundEvent, **fields: Any) -> Round:
        """An end that its updates and the clock do not bring about, as soon as the database can; a round that is over
        stays as it is.
        """

        async def finish() -> Round:
            async with live.lock:
                if not live.round.over:
                    await self._commit(live, replace(self._ended(live.round, event), **fields))
                return live.round

        return await insist("database", live.round.id, finish)

    async def review(self, live: LiveRound) -> None:
        """Look at the clock."""
        async with live.lock:
            if live.open:
                await self._commit(live, self._decided(live, []))
                if live.open:
                    self._arm(live)

    def _told(self, participant: Participant, news: News) -> Participant | None:
        """The participant after the news, or nothing when it changes nothing."""
        if news.task_id and participant.task_id and news.task_id != participant.task_id:
            return None  # about a task that is not this round's
        state = participant_after(participant.state, news.event)
        if state is participant.state and state in LOST:
            return None  # the first reason counts
        after = replace(participant, state=state, task_id=news.task_id or participant.task_id)
        if news.wasm_digest:
            after = replace(after, wasm_digest=news.wasm_digest)
        if news.event is ParticipantEvent.LAUNCHED and participant.launched_at is None:
            after = replace(after, launched_at=self._clock(), code="", error="")
        if state not in {ParticipantState.UPDATED, ParticipantState.LAUNCHED} and news.error:
            after = replace(after, code=news.code, error=news.error)
        if state is ParticipantState.ENDED and participant.ended_at is None:
            after = replace(after, ended_at=self._clock())
        return None if after == participant else after

    def _decided(self, live: LiveRound, changed: list[Participant]) -> Round:
        """The open round after these changes."""
        round_, now = live.round, self._clock()
        match decide(round_, _with(live.participants, changed), now):
            case Aggregate():
                state = round_after(round_.state, RoundEvent.ENOUGH_UPDATES)
                return replace(round_, state=state, aggregating_at=now)
            case Fail(code, error):
                return self._ended(round_, RoundEvent.TOO_FEW_UPDATES, code, error)
        return round_

    def _ended(self, round_: Round, event: RoundEvent, code: str = "", error: str = "") -> Round:
        state = round_after(round_.state, event)
        return replace(round_, state=state, code=code, error=error, finished_at=self._clock())

    async def _commit(
        self,
        live: LiveRound,
        round_: Round,
        changed: list[Participant] | None = None,
        received: Sequence[ReceivedUpdate] = (),
    ) -> None:
        before, changed = live.round, changed or []
        if round_ == before and not changed and not received:
            return
        await self._store.save(
            before.id, round_=None if round_ == before else round_, participants=changed, received=received
        )
        live.round = round_
        live.participants.update({p.proplet_id: p for p in changed})
        for each in received:
            live.keys[each.proplet_id] = each.key
            log.info(
                "Received update",
                round_id=round_.id,
                proplet_id=each.proplet_id,
                num_samples=each.key.num_samples,
                total_updates=len(live.keys),
                k_of_n=round_.k_of_n,
            )
        self.hold_if_needed(live)
        if round_.state is not before.state:
            self._moved(live)

    def hold_if_needed(self, live: LiveRound) -> None:
        if not live.round.over and not nobody_launched(live.participants):
            self.hold(live)

    def _moved(self, live: LiveRound) -> None:
        round_ = live.round
        _disarm(live)
        if round_.state is RoundState.AGGREGATING:
            log.info("Round complete: received k_of_n updates", round_id=round_.id, updates=len(live.keys))
            self.aggregate(live)
        if round_.code == "timeout":
            log.warning(
                "Round timeout exceeded",
                round_id=round_.id,
                timeout_s=round_.config.timeout_s,
                updates=len(live.keys),
            )
        elif round_.code:
            log.warning("Round ended without a model", round_id=round_.id, code=round_.code, error=round_.error)
        if round_.state in OVER:
            self._rounds.pop(round_.id, None)
            live.over.set()

    def _arm(self, live: LiveRound) -> None:
        _disarm(live)
        delay = max(0.0, live.round.deadline - self._clock())
        live.timer = asyncio.get_running_loop().call_later(delay, self._ring, live)

    def _ring(self, live: LiveRound) -> None:
        review = insist("database", live.round.id, lambda: self.review(live))
        self._tasks.start(review, f"deadline of round {live.round.id}")


def _disarm(live: LiveRound) -> None:
    if live.timer is not None:
        live.timer.cancel()
        live.timer = None


def _with(participants: Participants, changed: Iterable[Participant]) -> Participants:
    return {**participants, **{p.proplet_id: p for p in changed}}
