"""When is a round over? A function of what is known about it, and of the time."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.records import Participant, Participants, Round
from coordinator.states import ParticipantState

NAMED = 20
"""How many participants an error names before it only counts the rest."""


@dataclass(frozen=True, slots=True)
class Wait:
    """More updates can still come."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Enough updates are in."""


@dataclass(frozen=True, slots=True)
class Fail:
    """There will not be enough updates."""

    code: str
    error: str


Decision = Wait | Aggregate | Fail

LOST = {ParticipantState.SKIPPED, ParticipantState.ENDED}


def decide(round_: Round, participants: Participants, now: float) -> Decision:
    """What becomes of an open round. Enough updates decide before the clock does."""
    updated = sum(p.state is ParticipantState.UPDATED for p in participants.values())
    if updated >= round_.k_of_n:
        return Aggregate()
    if now >= round_.deadline:
        missing = [p for p in participants.values() if p.state is not ParticipantState.UPDATED]
        return Fail(
            "timeout",
            f"timeout: {updated} of {round_.k_of_n} updates arrived within {round_.config.timeout_s:g} s; "
            f"missing: {reasons(missing)}",
        )
    lost = [p for p in participants.values() if p.state in LOST]
    if len(participants) - len(lost) < round_.k_of_n:
        return Fail(
            "too_few_participants",
            f"{round_.k_of_n} updates cannot be reached with {len(participants) - len(lost)} of "
            f"{len(participants)} participants: {reasons(lost)}",
        )
    return Wait()


def nobody_launched(participants: Participants) -> bool:
    waiting = {ParticipantState.PENDING, ParticipantState.SKIPPED}
    return all(p.state in waiting for p in participants.values())


def reasons(participants: list[Participant]) -> str:
    """Each participant with what is known about it, in one line."""
    named = [f"{p.proplet_id} ({p.error or p.code or p.state.value})" for p in participants[:NAMED]]
    if len(participants) > NAMED:
        named.append(f"and {len(participants) - NAMED} more")
    return ", ".join(named)
