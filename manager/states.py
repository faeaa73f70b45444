"""The states of a task and of an attempt: what may happen when, and nothing else."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TaskState(IntEnum):
    """The numbers are those of the existing API."""

    PENDING = 0
    SCHEDULED = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    SKIPPED = 5
    INTERRUPTED = 6

    @property
    def ended(self) -> bool:
        return self in {TaskState.COMPLETED, TaskState.FAILED, TaskState.SKIPPED, TaskState.INTERRUPTED}


class TaskEvent(StrEnum):
    START = "start"
    ACCEPTED = "accepted"
    RETRY = "retry"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class AttemptState(StrEnum):
    RESOLVING = "resolving"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    DENIED = "denied"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        return self not in {AttemptState.RESOLVING, AttemptState.OFFERED, AttemptState.ACCEPTED}


class AttemptEvent(StrEnum):
    RESOLVED = "resolved"
    ACCEPTED = "accepted"
    DENIED = "denied"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"


class IllegalEventError(Exception):
    """An event that the state does not know; a bug, or a message that came too late."""


_ENDED = (TaskState.COMPLETED, TaskState.FAILED, TaskState.INTERRUPTED)
_ACTIVE = (TaskState.SCHEDULED, TaskState.RUNNING)

TASK: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.PENDING, TaskEvent.START): TaskState.SCHEDULED,
    **{(state, TaskEvent.START): TaskState.SCHEDULED for state in _ENDED},
    (TaskState.SCHEDULED, TaskEvent.ACCEPTED): TaskState.RUNNING,
    **{(state, TaskEvent.RETRY): TaskState.SCHEDULED for state in _ACTIVE},
    **{(state, TaskEvent.COMPLETED): TaskState.COMPLETED for state in _ACTIVE},
    **{(state, TaskEvent.FAILED): TaskState.FAILED for state in _ACTIVE},
    **{(state, TaskEvent.INTERRUPTED): TaskState.INTERRUPTED for state in _ACTIVE},
}

_OPEN = (AttemptState.OFFERED, AttemptState.ACCEPTED)

ATTEMPT: dict[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (AttemptState.RESOLVING, AttemptEvent.RESOLVED): AttemptState.OFFERED,
    (AttemptState.RESOLVING, AttemptEvent.FAILED): AttemptState.FAILED,
    (AttemptState.RESOLVING, AttemptEvent.EXPIRED): AttemptState.LOST,
    (AttemptState.RESOLVING, AttemptEvent.INTERRUPTED): AttemptState.INTERRUPTED,
    (AttemptState.OFFERED, AttemptEvent.ACCEPTED): AttemptState.ACCEPTED,
    (AttemptState.OFFERED, AttemptEvent.DENIED): AttemptState.DENIED,
    **{(state, AttemptEvent.COMPLETED): AttemptState.COMPLETED for state in _OPEN},
    **{(state, AttemptEvent.FAILED): AttemptState.FAILED for state in _OPEN},
    **{(state, AttemptEvent.INTERRUPTED): AttemptState.INTERRUPTED for state in _OPEN},
    **{(state, AttemptEvent.EXPIRED): AttemptState.LOST for state in _OPEN},
}


def next_task(state: TaskState, event: TaskEvent) -> TaskState:
    """Raises ``IllegalEventError`` when ``event`` cannot happen in ``state``."""
    try:
        return TASK[state, event]
    except KeyError:
        raise IllegalEventError(f"a {state.name.lower()} task cannot be {event}") from None


def next_attempt(state: AttemptState, event: AttemptEvent) -> AttemptState:
    """Raises ``IllegalEventError`` when ``event`` cannot happen in ``state``."""
    try:
        return ATTEMPT[state, event]
    except KeyError:
        raise IllegalEventError(f"a {state} attempt cannot be {event}") from None


def task_event(outcome: AttemptState, *, retryable: bool, attempt: int, retries: int) -> TaskEvent:
    """What an ended attempt means for its task: ``attempt`` counts from 1, ``retries`` is how many may follow the first."""
    if outcome is AttemptState.COMPLETED:
        return TaskEvent.COMPLETED
    if outcome is AttemptState.INTERRUPTED:
        return TaskEvent.INTERRUPTED
    return TaskEvent.RETRY if retryable and attempt <= retries else TaskEvent.FAILED


def retry_delay(attempt: int) -> float:
    """Seconds before the attempt after ``attempt``: 0.2 s doubling to 5 s."""
    return min(5.0, 0.2 * 2.0 ** min(attempt - 1, 10))
