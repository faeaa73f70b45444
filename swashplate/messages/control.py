"""Between the manager and its proplets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swashplate.messages.base import Digest, Identifier, Json, JsonObject, Message

PROTOCOL = 2


class ProcessUrls(Message):
    """Where a proplet finds the HTTP services; empty when the operator set them at the proplet."""

    coordinator: str = ""
    model_registry: str = ""


class Announce(Message):
    """Retained; tells every proplet which protocol the manager speaks and how often to report."""

    protocol: int = PROTOCOL
    heartbeat_s: float = Field(gt=0)
    urls: ProcessUrls = ProcessUrls()


class Capabilities(Message):
    """What a proplet can do and has at hand. ``memory_bytes`` is the machine's total."""

    cpu: int = 0
    memory_bytes: int = 0
    arch: str = ""
    wasm_features: list[str] = []
    labels: dict[str, str] = {}
    datasets: list[str] = []
    digests: list[str] = []
    slots: int = 1


class PropletCreate(Message):
    """Sent on every connect. ``instance`` names one life of the process: a last will of an earlier life is recognised."""

    proplet_id: Identifier
    instance: str
    namespace: str = "default"
    metadata: JsonObject = {}
    capabilities: Capabilities = Capabilities()


AttemptNumber = Annotated[int, Field(ge=1, lt=2**31)]


class AttemptRef(Message):
    task_id: str
    attempt: AttemptNumber


class Alive(Message):
    proplet_id: Identifier
    instance: str
    status: Literal["alive", "offline"]
    namespace: str = "default"
    running: list[AttemptRef] = []
    free_slots: int = 0


class Start(Message):
    """A lease on one attempt of one task. ``tokens`` prove later messages about this attempt; they never reach the guest."""

    id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    name: str
    kind: str = "standard"
    image_url: str = ""
    digest: Digest
    size: int = Field(gt=0)
    inputs: list[str] = []
    cli_args: list[str] = []
    env: dict[str, str] = {}
    dataset: str = ""
    timeout_s: float = Field(gt=0)
    tokens: dict[str, str] = {}


class Stop(Message):
    id: str
    proplet_id: Identifier


class AttemptStatus(Message):
    """``id`` identifies the message for the manager's ack."""

    id: str
    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    status: Literal["accepted", "denied", "progress"]
    code: str = ""
    reason: str = ""


class Result(Message):
    """How an attempt ended. ``error`` empty or absent means it succeeded; ``retryable`` says another attempt could differ."""

    id: str
    task_id: str
    attempt: AttemptNumber
    proplet_id: Identifier
    results: Json = None
    error: str | None = None
    code: str = ""
    retryable: bool = False


class Ack(Message):
    """These messages are durable at the manager."""

    ids: list[str]
