"""What an attempt goes through at the proplet, as the journal records it. Pure."""

from __future__ import annotations

from enum import StrEnum

from swashplate.errors import ConflictError


class AttemptState(StrEnum):
    ACCEPTED = "accepted"
    """Promised to the manager; queued or running."""
    DELIVERING = "delivering"
    """Its update is kept and on its way to the coordinator, or its large result to the manager."""
    FINISHED = "finished"
    """Its result is kept and sent until the manager has it."""
    ACKNOWLEDGED = "acknowledged"
    """The manager has its result."""


class AttemptEvent(StrEnum):
    CONTENT_KEPT = "content_kept"
    RESULT_KEPT = "result_kept"
    RESULT_ACKNOWLEDGED = "result_acknowledged"


_S, _E = AttemptState, AttemptEvent
TRANSITIONS: dict[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (_S.ACCEPTED, _E.CONTENT_KEPT): _S.DELIVERING,
    (_S.ACCEPTED, _E.RESULT_KEPT): _S.FINISHED,
    (_S.DELIVERING, _E.RESULT_KEPT): _S.FINISHED,
    # A result that the bus cannot carry is replaced by a failed one.
    (_S.FINISHED, _E.RESULT_KEPT): _S.FINISHED,
    (_S.FINISHED, _E.RESULT_ACKNOWLEDGED): _S.ACKNOWLEDGED,
    # A start that comes again is answered again.
    (_S.ACKNOWLEDGED, _E.RESULT_ACKNOWLEDGED): _S.ACKNOWLEDGED,
}


def after(state: AttemptState, event: AttemptEvent) -> AttemptState:
    """Raises ``ConflictError`` for an event that the state does not know."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ConflictError(f"an attempt that is {state} cannot take {event}", code="illegal_transition") from None
