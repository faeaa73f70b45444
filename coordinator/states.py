"""The states of a round and of its participants, and every event that may change them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from swashplate.errors import SwashplateError


class IllegalTransitionError(SwashplateError):
    """An event that its state does not know: a mistake in this program, not in a request."""

    default_code = "illegal_transition"


class RoundState(StrEnum):
    CONFIGURED = "configured"  # open: tasks are out, updates come in
    AGGREGATING = "aggregating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RoundEvent(StrEnum):
    ENOUGH_UPDATES = "enough updates"
    TOO_FEW_UPDATES = "too few updates"  # the time is over, or too many participants are
    NOBODY_LAUNCHED = "nobody launched"
    MODEL_STORED = "model stored"
    MODEL_REFUSED = "model refused"  # by the aggregator or the model registry
    BASE_LOST = "base lost"  # the model it starts from was replaced before the registry knew of the round


class ParticipantState(StrEnum):
    PENDING = "pending"  # its task is not launched yet
    LAUNCHED = "launched"
    SKIPPED = "skipped"  # the manager will never launch it
    ENDED = "ended"  # its task is over without an update
    UPDATED = "updated"


class ParticipantEvent(StrEnum):
    LAUNCHED = "launched"
    POSTPONED = "postponed"
    REFUSED = "refused"
    ENDED = "ended"
    COMPLETED = "completed"  # its task is over, its update is here or on its way
    UPDATED = "updated"


ROUND: Mapping[tuple[RoundState, RoundEvent], RoundState] = {
    (RoundState.CONFIGURED, RoundEvent.ENOUGH_UPDATES): RoundState.AGGREGATING,
    (RoundState.CONFIGURED, RoundEvent.TOO_FEW_UPDATES): RoundState.FAILED,
    (RoundState.CONFIGURED, RoundEvent.NOBODY_LAUNCHED): RoundState.CANCELLED,
    (RoundState.CONFIGURED, RoundEvent.BASE_LOST): RoundState.FAILED,
    (RoundState.AGGREGATING, RoundEvent.BASE_LOST): RoundState.FAILED,
    (RoundState.AGGREGATING, RoundEvent.MODEL_STORED): RoundState.COMPLETED,
    (RoundState.AGGREGATING, RoundEvent.MODEL_REFUSED): RoundState.FAILED,
}

# A task is launched again, under the same key, after a restart of the coordinator; the manager tells how a task ended
# more than once; and an update may overtake the manager's answer to the launch or follow the news that its task failed.
# So these events meet almost every state.
PARTICIPANT: Mapping[tuple[ParticipantState, ParticipantEvent], ParticipantState] = {
    (ParticipantState.PENDING, ParticipantEvent.LAUNCHED): ParticipantState.LAUNCHED,
    (ParticipantState.PENDING, ParticipantEvent.POSTPONED): ParticipantState.PENDING,
    (ParticipantState.PENDING, ParticipantEvent.REFUSED): ParticipantState.SKIPPED,
    (ParticipantState.PENDING, ParticipantEvent.ENDED): ParticipantState.ENDED,
    (ParticipantState.PENDING, ParticipantEvent.COMPLETED): ParticipantState.LAUNCHED,
    (ParticipantState.PENDING, ParticipantEvent.UPDATED): ParticipantState.UPDATED,
    (ParticipantState.LAUNCHED, ParticipantEvent.LAUNCHED): ParticipantState.LAUNCHED,
    (ParticipantState.LAUNCHED, ParticipantEvent.POSTPONED): ParticipantState.LAUNCHED,
    (ParticipantState.LAUNCHED, ParticipantEvent.REFUSED): ParticipantState.SKIPPED,
    (ParticipantState.LAUNCHED, ParticipantEvent.ENDED): ParticipantState.ENDED,
    (ParticipantState.LAUNCHED, ParticipantEvent.COMPLETED): ParticipantState.LAUNCHED,
    (ParticipantState.LAUNCHED, ParticipantEvent.UPDATED): ParticipantState.UPDATED,
    (ParticipantState.SKIPPED, ParticipantEvent.ENDED): ParticipantState.SKIPPED,
    (ParticipantState.SKIPPED, ParticipantEvent.COMPLETED): ParticipantState.SKIPPED,
    (ParticipantState.SKIPPED, ParticipantEvent.UPDATED): ParticipantState.UPDATED,
    (ParticipantState.ENDED, ParticipantEvent.LAUNCHED): ParticipantState.ENDED,
    (ParticipantState.ENDED, ParticipantEvent.POSTPONED): ParticipantState.ENDED,
    (ParticipantState.ENDED, ParticipantEvent.REFUSED): ParticipantState.ENDED,
    (ParticipantState.ENDED, ParticipantEvent.ENDED): ParticipantState.ENDED,
    (ParticipantState.ENDED, ParticipantEvent.COMPLETED): ParticipantState.ENDED,
    (ParticipantState.ENDED, ParticipantEvent.UPDATED): ParticipantState.UPDATED,
    (ParticipantState.UPDATED, ParticipantEvent.LAUNCHED): ParticipantState.UPDATED,
    (ParticipantState.UPDATED, ParticipantEvent.POSTPONED): ParticipantState.UPDATED,
    (ParticipantState.UPDATED, ParticipantEvent.REFUSED): ParticipantState.UPDATED,
    (ParticipantState.UPDATED, ParticipantEvent.ENDED): ParticipantState.UPDATED,
    (ParticipantState.UPDATED, ParticipantEvent.COMPLETED): ParticipantState.UPDATED,
}

OVER = frozenset({RoundState.COMPLETED, RoundState.FAILED, RoundState.CANCELLED})

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


def _following(table: Mapping[tuple[State, Event], State], state: State, event: Event) -> State:
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.value!r} cannot happen in the state {state.value!r}") from None


def round_after(state: RoundState, event: RoundEvent) -> RoundState:
    """Raises ``IllegalTransitionError``."""
    return _following(ROUND, state, event)


def participant_after(state: ParticipantState, event: ParticipantEvent) -> ParticipantState:
    """Raises ``IllegalTransitionError``."""
    return _following(PARTICIPANT, state, event)
