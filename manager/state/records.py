"""What the manager remembers: tasks, their attempts, the calls of latent ones, and the jobs and workflows that group tasks.

Frozen: a change is a new record, handed to the ledger. Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

from manager.state.states import AttemptState, InvocationState, TaskState
from swashplate.messages import TaskCreate

PASSING_DENIALS = frozenset({"no_slot", "superseded"})


class AttemptKey(NamedTuple):
    task_id: str
    number: int

    @property
    def place(self) -> str:
        """The name of its folder in that of the task."""
        return str(self.number)


class CallKey(NamedTuple):
    """One turn of an invocation, where the attempt ``number`` has its task ready. ``turn`` is what its proplet knows it by:
    the invocation's id, and from the second on a dot and the number of the turn.
    """

    task_id: str
    number: int
    turn: str

    @property
    def place(self) -> str:
        """As an attempt's; all turns have one."""
        return self.turn.partition(".")[0]


ResultKey = AttemptKey | CallKey
"""Whatever a proplet has a result of."""


@dataclass(frozen=True, slots=True)
class Task:
    """``seq`` counts tasks in the order in which they were made, ``run`` counts its starts, ``attempt`` is the number of its latest attempt over all runs (0: none).

    ``spec_text`` is ``spec`` as it is stored. ``group_id`` names its job or workflow, ``position`` its place there.
    """

    id: str
    seq: int
    spec: TaskCreate
    spec_text: str
    state: TaskState
    created_at: float
    updated_at: float
    run: int = 0
    attempt: int = 0
    digest: str | None = None
    size: int | None = None
    proplet_id: str | None = None
    group_id: str | None = None
    position: int = 0
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    next_run: float | None = None
    stopping: bool = False
    result: str | None = None
    error: str | None = None
    code: str | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def key(self) -> str:
        return self.id

    @property
    def standing(self) -> bool:
        """It runs until it is stopped: no deadline, and an end is an exception."""
        return self.spec.daemon or self.spec.latent

    def changed(self, **fields: Any) -> Task:
        return replace(self, **fields)

    def specified(self, spec: TaskCreate) -> Task:
        return replace(self, spec=spec, spec_text=spec_text(spec))


def spec_text(spec: TaskCreate) -> str:
    """What is stored of a spec: only what is not the default."""
    return spec.model_dump_json(exclude_defaults=True, exclude={"start"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One lease on one proplet. ``target`` is the proplet that it is meant for, when it is meant for a certain one.

    ``retry`` counts the attempts for this target in this run that ended before it and that the task's policy counts.
    ``not_before`` is when it may be placed, ``deadline`` when its lease ends (None while it waits, and for a standing task),
    ``stop_at`` when its stop was asked for. ``report`` is the JSON of a ``RunReport``.
    """

    task_id: str
    number: int
    run: int
    state: AttemptState
    created_at: float
    target: str | None = None
    proplet_id: str | None = None
    retry: int = 0
    not_before: float = 0.0
    deadline: float | None = None
    offered_at: float | None = None
    accepted_at: float | None = None
    stop_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    error: str | None = None
    code: str | None = None
    report: str | None = None

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.task_id, self.number)

    @property
    def refused(self) -> bool:
        """Its proplet denied it for a reason that does not pass by itself."""
        return self.state is AttemptState.DENIED and self.code not in PASSING_DENIALS

    def changed(self, **fields: Any) -> Attempt:
        return replace(self, **fields)


class GroupState(IntEnum):
    PENDING = 0
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Group:
    """A job or a workflow. ``kind`` is ``job`` or ``workflow``, ``mode`` a job's execution mode."""

    id: str
    kind: str
    name: str
    mode: str
    state: GroupState
    created_at: float
    updated_at: float
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def key(self) -> str:
        return self.id

    def changed(self, **fields: Any) -> Group:
        return replace(self, **fields)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a latent task. ``seq`` counts invocations in the order in which they were asked for.

    ``call`` is what it is called with, as JSON: ``inputs`` and ``env``. ``deadline`` is when its result is too late.
    ``number`` is the attempt that deployed the task where this runs, ``proplet_id`` that attempt's proplet; both stay what
    they were last while it waits again. ``turn`` counts how often it was given to a proplet, ``retry`` the runs that failed
    before and that the task's policy counts. ``result``, ``error``, ``code`` and ``report`` are those of its last turn.
    """

    id: str
    seq: int
    task_id: str
    state: InvocationState
    call: str
    created_at: float
    deadline: float
    number: int | None = None
    proplet_id: str | None = None
    turn: int = 0
    retry: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    error: str | None = None
    code: str | None = None
    report: str | None = None

    @property
    def key(self) -> str:
        return self.id

    @property
    def deployment(self) -> AttemptKey | None:
        return None if self.number is None else AttemptKey(self.task_id, self.number)

    def changed(self, **fields: Any) -> Invocation:
        return replace(self, **fields)


@dataclass(frozen=True, slots=True)
class Untold:
    """The coordinator is still to be told how this task of a round ended."""

    task_id: str

    @property
    def key(self) -> str:
        return self.task_id


Record = Task | Attempt | Group | Invocation | Untold


@dataclass(frozen=True, slots=True)
class Erased:
    """In the place of a record that is to go, with everything that belongs to it."""

    key: str
