"""Between the manager and its proplets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from swashplate.messages.base import Digest, Identifier, Json, JsonObject, Message
from swashplate.messages.sandbox import RunReport, RunTerms
from swashplate.messages.tasks import MonitoringProfile

PROTOCOL = 2


class ProcessUrls(Message):
    """Where a proplet finds the HTTP services; empty when the operator set them at the proplet."""

    coordinator: str = ""
    model_registry: str = ""
    manager: str = ""


class Announce(Message):
    """Retained; tells every proplet which protocol the manager speaks and how often to report."""

    protocol: int = PROTOCOL
    heartbeat_s: float = Field(gt=0)
    urls: ProcessUrls = ProcessUrls()


MAX_SLOTS = 1024
MAX_QUEUE = 100_000


class Capabilities(Message):
    """What a proplet can do and has at hand. ``memory_bytes`` is the machine's total, or its container's; ``queue`` is how
    many accepted starts may wait there for one of the ``slots``. ``confinement`` is what of the kernel holds the processes
    that run guests besides the runtime: ``seccomp``, ``landlock``. Bounded, since they are believed.
    """

    cpu: int = Field(default=0, ge=0, lt=2**31)
    memory_bytes: int = Field(default=0, ge=0, lt=2**63)
    arch: str = ""
    wasm_features: list[str] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    datasets: list[str] = Field(default_factory=list)
    digests: list[str] = Field(default_factory=list)
    slots: int = Field(default=1, ge=0, le=MAX_SLOTS)
    queue: int = Field(default=0, ge=0, le=MAX_QUEUE)
    confinement: list[str] = []


class PropletCreate(Message):
    """Sent on every connect. ``instance`` names one life of the process: a last will of an earlier life is recognised."""

    proplet_id: Identifier
    instance: str
    namespace: str = "default"
    metadata: JsonObject = Field(default_factory=dict)
    capabilities: Capabilities = Field(default_factory=Capabilities)


MAX_REASON = 16 * 1024
MAX_CODE = 128


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


Reason = Annotated[str, AfterValidator(lambda text: _shortened(text, MAX_REASON))]
"""For people. A longer one is cut: it is shown with its task, a hundred on a page."""
Code = Annotated[str, AfterValidator(lambda text: _shortened(text, MAX_CODE))]

AttemptNumber = Annotated[int, Field(ge=1, lt=2**31)]


class AttemptRef(Message):
    task_id: str
    attempt: AttemptNumber


Stage = Literal["", "fetching", "waiting", "compiling", "running", "ready"]
"""What a proplet does with an accepted attempt: ``waiting`` is for a slot, ``ready`` is a latent task that can be invoked."""


class Alive(Message):
    proplet_id: Identifier
    instance: str
    status: Literal["alive", "offline"]
    namespace: str = "default"
    running: list[AttemptRef] = Field(default_factory=list)
    invocations: list[str] = Field(default_factory=list)
    free_slots: int = 0


UPLOAD_TOKEN = "results"  # noqa: S105  # the name of a token
"""In a start's tokens: it proves the upload of a result that is too large for a message."""
TOKEN_HEADER = "X-Attempt-Token"  # noqa: S105  # the name of a header
"""Of a request that brings a token of a start: of an upload, and of an update."""


class Start(RunTerms):
    """A lease on one attempt of one task. ``tokens`` prove later messages about this attempt; they never reach the guest.

    ``timeout_s`` is absent for a ``daemon`` and a ``latent`` task: they run until they are stopped. ``parents`` holds the
    results of the tasks that this one depends on, by task id; those that are too large for a message are a blob instead.
    """

    id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    name: str
    kind: str = "standard"
    image_url: str = ""
    digest: Digest
    size: int = Field(gt=0)
    inputs: list[str] = Field(default_factory=list)
    cli_args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    dataset: str = ""
    timeout_s: float | None = Field(default=None, gt=0)
    daemon: bool = False
    latent: bool = False
    concurrency: int = 0
    monitoring_profile: MonitoringProfile | None = None
    parents: dict[str, Json] = Field(default_factory=dict)
    parents_digest: Digest | None = None
    parents_size: int = 0
    tokens: dict[str, str] = Field(default_factory=dict)


class Stop(Message):
    """``attempt`` 0 means whichever runs."""

    id: str
    attempt: Annotated[int, Field(ge=0, lt=2**31)] = 0
    proplet_id: Identifier


class Invoke(Message):
    """Call a latent task that is ready: ``inputs`` replace the task's unless empty, ``env`` is merged over it. ``tokens`` as in
    a ``Start``.
    """

    invocation_id: str = Field(min_length=1, max_length=64)
    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    inputs: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    timeout_s: float = Field(gt=0, le=300)
    tokens: dict[str, str] = {}


class AttemptStatus(Message):
    """``id`` identifies the message for the manager's ack. ``progress`` is sent with QoS 0 and not acknowledged."""

    id: str
    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    status: Literal["accepted", "ready", "denied", "progress"]
    stage: Stage = ""
    code: Code = ""
    reason: Reason = ""


class Result(Message):
    """How an attempt ended. ``error`` empty or absent means it succeeded; ``retryable`` says another attempt could differ.

    A value of ``results`` that is too large for a message is a blob of JSON at the manager instead: ``results_digest`` and
    ``results_size`` in bytes.
    """

    id: str
    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    results: Json = None
    error: Reason | None = None
    code: Code = ""
    retryable: bool = False
    results_digest: Digest | None = None
    results_size: int = Field(default=0, ge=0)
    report: RunReport | None = None


class InvokeResult(Message):
    """How one invocation ended; kept and sent again until it is acknowledged, like a ``Result``, with the same fields."""

    id: str
    invocation_id: str
    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    results: Json = None
    error: Reason | None = None
    code: Code = ""
    retryable: bool = False
    results_digest: Digest | None = None
    results_size: int = Field(default=0, ge=0)
    report: RunReport | None = None


class PropletMetrics(Message):
    """QoS 0. ``timestamp`` is RFC 3339; ``percent`` the mean over all CPUs of the machine, 0 to 100."""

    proplet_id: Identifier
    namespace: str = "default"
    timestamp: str
    cpu_metrics: JsonObject = Field(default_factory=dict)
    memory_metrics: JsonObject = Field(default_factory=dict)


class TaskMetrics(Message):
    """QoS 0. ``metrics`` is one sample, ``aggregated`` what the samples so far come to."""

    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    timestamp: str
    metrics: JsonObject = Field(default_factory=dict)
    aggregated: JsonObject | None = None


class TaskLog(Message):
    """QoS 0. A part of an attempt's stderr: ``size`` bytes of it, which ``offset`` bytes came before.

    ``offset`` and ``size`` count what the guest wrote. In ``text`` bytes that are no UTF-8 are replaced. What no part holds
    was over the rate that is sent, or was lost on the way; the last part, then without text, says how far it goes.
    """

    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    offset: int = Field(ge=0, lt=2**63)
    size: int = Field(ge=0, lt=2**31)
    text: str


class Ack(Message):
    """These messages are durable at the manager."""

    ids: list[str]
