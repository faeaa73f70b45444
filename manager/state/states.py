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
        return self >= TaskState.COMPLETED

    @property
    def active(self) -> bool:
        return self in {TaskState.SCHEDULED, TaskState.RUNNING}


class TaskEvent(StrEnum):
    START = "start"
    ACCEPTED = "accepted"
    AGAIN = "again"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"
    REFUSED = "refused"
    """Its time had come, and it could not be started."""
    RESET = "reset"


class AttemptState(StrEnum):
    QUEUED = "queued"
    """Waits for its image to be resolved, for its time, or for a proplet with a free slot."""
    OFFERED = "offered"
    ACCEPTED = "accepted"
    READY = "ready"
    """A latent task is deployed and can be invoked."""
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    DENIED = "denied"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        return self in _ENDED_ATTEMPT

    @property
    def held(self) -> bool:
        """A proplet has it."""
        return self in {AttemptState.ACCEPTED, AttemptState.READY}


class AttemptEvent(StrEnum):
    PLACED = "placed"
    ACCEPTED = "accepted"
    READY = "ready"
    DENIED = "denied"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"


class InvocationState(StrEnum):
    QUEUED = "queued"
    """Waits for a proplet where its task is ready and has a turn for it."""
    RUNNING = "running"
    """Is with a proplet, or on its way there."""
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in {InvocationState.COMPLETED, InvocationState.FAILED}


class InvocationEvent(StrEnum):
    GIVEN = "given"
    RETURNED = "returned"
    """It is to be run elsewhere, or later."""
    COMPLETED = "completed"
    FAILED = "failed"


class IllegalEventError(Exception):
    """An event that the state does not know; a bug, or a message that came too late."""


_ENDED_ATTEMPT = frozenset(
    {
        AttemptState.COMPLETED,
        AttemptState.FAILED,
        AttemptState.INTERRUPTED,
        AttemptState.DENIED,
        AttemptState.LOST,
    }
)
_ENDED = (TaskState.COMPLETED, TaskState.FAILED, TaskState.SKIPPED, TaskState.INTERRUPTED)
_ACTIVE = (TaskState.SCHEDULED, TaskState.RUNNING)

TASK: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.PENDING, TaskEvent.START): TaskState.SCHEDULED,
    (TaskState.PENDING, TaskEvent.SKIPPED): TaskState.SKIPPED,
    **{(state, TaskEvent.START): TaskState.SCHEDULED for state in _ENDED},
    **{(state, TaskEvent.REFUSED): TaskState.FAILED for state in (TaskState.PENDING, *_ENDED)},
    **{(state, TaskEvent.RESET): TaskState.PENDING for state in _ENDED},
    **{(state, TaskEvent.ACCEPTED): TaskState.RUNNING for state in _ACTIVE},
    **{(state, TaskEvent.AGAIN): TaskState.SCHEDULED for state in _ACTIVE},
    **{(state, TaskEvent.COMPLETED): TaskState.COMPLETED for state in _ACTIVE},
    **{(state, TaskEvent.FAILED): TaskState.FAILED for state in _ACTIVE},
    **{(state, TaskEvent.INTERRUPTED): TaskState.INTERRUPTED for state in _ACTIVE},
}

_GIVEN = (AttemptState.OFFERED, AttemptState.ACCEPTED, AttemptState.READY)
_OPEN = (AttemptState.QUEUED, *_GIVEN)

ATTEMPT: dict[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (AttemptState.QUEUED, AttemptEvent.PLACED): AttemptState.OFFERED,
    (AttemptState.OFFERED, AttemptEvent.ACCEPTED): AttemptState.ACCEPTED,
    (AttemptState.OFFERED, AttemptEvent.READY): AttemptState.READY,
    (AttemptState.ACCEPTED, AttemptEvent.READY): AttemptState.READY,
    (AttemptState.OFFERED, AttemptEvent.DENIED): AttemptState.DENIED,
    **{(state, AttemptEvent.COMPLETED): AttemptState.COMPLETED for state in _GIVEN},
    **{(state, AttemptEvent.FAILED): AttemptState.FAILED for state in _OPEN},
    **{(state, AttemptEvent.INTERRUPTED): AttemptState.INTERRUPTED for state in _OPEN},
    **{(state, AttemptEvent.EXPIRED): AttemptState.LOST for state in _GIVEN},
}

INVOCATION: dict[tuple[InvocationState, InvocationEvent], InvocationState] = {
    (InvocationState.QUEUED, InvocationEvent.GIVEN): InvocationState.RUNNING,
    (InvocationState.QUEUED, InvocationEvent.FAILED): InvocationState.FAILED,
    (InvocationState.RUNNING, InvocationEvent.RETURNED): InvocationState.QUEUED,
    (InvocationState.RUNNING, InvocationEvent.COMPLETED): InvocationState.COMPLETED,
    (InvocationState.RUNNING, InvocationEvent.FAILED): InvocationState.FAILED,
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


def next_invocation(state: InvocationState, event: InvocationEvent) -> InvocationState:
    """Raises ``IllegalEventError`` when ``event`` cannot happen in ``state``."""
    try:
        return INVOCATION[state, event]
    except KeyError:
        raise IllegalEventError(f"a {state} invocation cannot be {event}") from None
