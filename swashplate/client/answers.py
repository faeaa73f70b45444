"""What the manager answers, typed: frozen, tolerant of fields it does not know and of those an older manager lacks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, ValidationError, model_validator

from swashplate.errors import SwashplateError, from_validation

STATUSES = ("pending", "scheduled", "running", "completed", "failed", "skipped", "interrupted")
"""A task's status by its number in the field ``state``."""
ENDED = frozenset(STATUSES[3:])

T = TypeVar("T")


def _time(value: object) -> object:
    """The manager writes the year 1 for a time that has not come."""
    return None if isinstance(value, str) and value.startswith("0001-01-01") else value


Time = Annotated[datetime | None, BeforeValidator(_time)]


class BadAnswerError(SwashplateError):
    """What answered is not a manager, or one that we do not understand."""

    default_code = "bad_answer"


class Answer(BaseModel):
    """The base of all. ``document`` is the JSON object as it came."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        return self._document

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, handler: Any) -> Self:
        made: Self = handler(value)
        if isinstance(value, dict):
            made._document = value
        return made

    @classmethod
    def read(cls, document: Any) -> Self:
        """Raises ``BadAnswerError`` naming the field that is not as it should be."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise BadAnswerError(
                from_validation(error, f"the manager's answer ({cls.__name__.lower()})").sentence,
                hint="is the URL that of a manager?",
            ) from error


class _WithState(Answer):
    state: int = 0
    status: str = "pending"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A manager that tells the number alone: the name follows."""
        if isinstance(value, dict) and "status" not in value and value.get("state") in range(len(STATUSES)):
            return {**value, "status": STATUSES[value["state"]]}
        return value

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Granted(Answer):
    """What a task asked of its proplet's policy, what it got, and what it did not get."""

    asked: list[str] = []
    granted: list[str] = []
    refused: list[str] = []


class Report(Answer):
    """How a run went. ``limits`` and ``used`` have the same names; what was not measured is absent.

    ``log_tail`` is the end of the guest's stderr.
    """

    isolation: str = ""
    deterministic: bool = False
    limits: dict[str, float] = {}
    used: dict[str, float] = {}
    capabilities: Granted = Granted()
    log_tail: str = ""
    inputs_digest: str = ""
    output_digest: str = ""


class Task(_WithState):
    """``results`` is any JSON value; in a list long ones are left out, and ``results_omitted`` is true. ``waiting`` says why a task that should run does not; times are aware of their zone."""

    id: str
    name: str = ""
    kind: str = "standard"
    mode: str = ""
    image_url: str = ""
    digest: str = ""
    inputs: list[str] = []
    cli_args: list[str] = []
    env: dict[str, str] = {}
    proplet_id: str = ""
    priority: int = 50
    broadcast: bool = False
    daemon: bool = False
    latent: bool = False
    restart: str = ""
    concurrency: int = 0
    encrypted: bool = False
    dataset: str = ""
    selector: dict[str, str] = {}
    memory_bytes: int = 0
    wasm_features: list[str] = []
    limits: dict[str, float] = {}
    isolation: str = ""
    deterministic: bool = False
    seed: int = 0
    capabilities: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    timeout_s: float | None = None
    retries: int = 0
    depends_on: list[str] = []
    run_if: str = ""
    workflow_id: str = ""
    job_id: str = ""
    schedule: str = ""
    timezone: str = ""
    is_recurring: bool = False
    missed_run: str = ""
    next_run: Time = None
    run: int = 0
    attempt: int = 0
    stage: str = ""
    waiting: str = ""
    results: Any = None
    results_omitted: bool = False
    error: str = ""
    code: str = ""
    created_at: Time = None
    updated_at: Time = None
    start_time: Time = None
    finish_time: Time = None

    @property
    def standing(self) -> bool:
        """Does it run until it is stopped?"""
        return self.daemon or self.latent

    @property
    def settled(self) -> bool:
        """Is there nothing to wait for? A daemon that runs and a latent task that is ready do not end by themselves."""
        if self.status != "running":
            return self.ended
        return self.stage == "ready" or (self.daemon and self.stage in {"", "running"})

    @property
    def succeeded(self) -> bool:
        return self.status == "completed"


class Started(Answer):
    started: bool = True
    run: int = 0
    attempt: int = 0


class Results(_WithState):
    """``results`` of a broadcast task is an object: proplet id → result. ``report`` is that of the last attempt."""

    results: Any = None
    error: str = ""
    code: str = ""
    report: Report | None = None


class LogPart(Answer):
    """A piece of what a guest wrote to stderr. ``dropped`` bytes are missing before ``text``; ``ended``: its attempt has."""

    attempt: int = 0
    proplet_id: str = ""
    offset: int = 0
    next_offset: int = 0
    text: str = ""
    dropped: int = 0
    ended: bool = False


class Attempt(Answer):
    attempt: int
    run: int = 0
    proplet_id: str = ""
    status: str = ""
    stage: str = ""
    created_at: Time = None
    offered_at: Time = None
    accepted_at: Time = None
    finish_time: Time = None
    results: Any = None
    results_omitted: bool = False
    error: str = ""
    code: str = ""
    report: Report | None = None


class Invocation(Answer):
    """One call of a latent task. ``status`` is queued, running, completed or failed. In a list, results that were too large
    for a message are left out, and ``results_omitted`` is true; no list has the ``report``.
    """

    invocation_id: str = ""
    task_id: str = ""
    proplet_id: str = ""
    status: str = "completed"
    results: Any = None
    results_omitted: bool = False
    error: str = ""
    code: str = ""
    report: Report | None = None
    created_at: Time = None
    finish_time: Time = None

    @property
    def ended(self) -> bool:
        return self.status in {"completed", "failed"}


class Metric(Answer):
    """One sample: of a task (``metrics``, ``aggregated``) or of a proplet (``cpu_metrics``, ``memory_metrics``)."""

    timestamp: Any = None
    task_id: str = ""
    attempt: int = 0
    proplet_id: str = ""
    metrics: dict[str, Any] = {}
    aggregated: dict[str, Any] = {}
    cpu_metrics: dict[str, Any] = {}
    memory_metrics: dict[str, Any] = {}


class Group(_WithState):
    """What jobs and workflows have in common. In a list ``tasks`` may be left out, and ``tasks_omitted`` is true then."""

    noun: ClassVar[str]

    id: str
    name: str = ""
    tasks: list[Task] = []
    tasks_total: int = 0
    tasks_ended: int = 0
    tasks_omitted: bool = False
    created_at: Time = None
    start_time: Time = None
    finish_time: Time = None

    @model_validator(mode="before")
    @classmethod
    def _one_id(cls, value: Any) -> Any:
        key = f"{cls.noun}_id"
        return {**value, "id": value[key]} if isinstance(value, dict) and key in value else value

    @property
    def succeeded(self) -> bool:
        return self.status == "completed"


class Workflow(Group):
    noun: ClassVar[str] = "workflow"


class Job(Group):
    noun: ClassVar[str] = "job"

    execution_mode: str = ""


class Capabilities(Answer):
    cpu: int = 0
    memory_bytes: int = 0
    arch: str = ""
    wasm_features: list[str] = []
    labels: dict[str, str] = {}
    datasets: list[str] = []
    digests: list[str] = []
    slots: int = 1
    queue: int = 0
    confinement: list[str] = []


class Proplet(Answer):
    id: str
    name: str = ""
    namespace: str = ""
    alive: bool = False
    legacy: bool = False
    cordoned: bool = False
    draining: bool = False
    task_count: int = 0
    free_slots: int | None = None
    last_alive_at: Time = None
    metadata: dict[str, Any] = {}
    capabilities: Capabilities = Capabilities()


class Seen(Answer):
    """One sign of life."""

    at: Time = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"at": value} if isinstance(value, str) else value


class Acknowledged(Answer):
    """Done. ``message`` is a sentence, when the manager has one."""

    message: str = ""


class Experiment(Answer):
    """A configured round: which tasks were launched, which participants were skipped and why."""

    experiment_id: str = ""
    round_id: str
    status: str = "configured"
    model_version: int | None = None
    launched: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []


class Round(Answer):
    round_id: str
    completed: bool = False
    status: str = ""
    num_updates: int = 0
    k_of_n: int = 0
    model_version: int | None = None

    @property
    def ended(self) -> bool:
        return self.completed or self.status in {"failed", "cancelled"}


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list. ``total`` counts what there is without ``offset`` and ``limit``."""

    offset: int
    limit: int
    total: int
    items: list[T]
    document: dict[str, Any]
