"""What the coordinator, the model registry and their callers say to each other."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from swashplate.messages import Digest, Message, RoundStatus
from swashplate.messages.base import JsonObject


class NewModel(Message):
    """A model under a version that the sender names."""

    version: int = Field(ge=0, le=999_999_999)
    model: dict[str, Any]


class RoundModel(Message):
    """What a round made out of version ``parent_version``; the registry chooses the version."""

    model: dict[str, Any]
    parent_version: int = Field(ge=0)
    lineage: JsonObject = {}


class StoredRoundModel(Message):
    """Where a round's model is readable."""

    version: int
    uri: str
    digest: str


class ModelDescription(Message):
    """``shapes`` maps each tensor to its dimensions, a single number has none; a ``final`` model never changes."""

    line: str
    version: int
    digest: str
    shapes: dict[str, list[int]]
    final: bool


class ModelUse(Message):
    """The digest that a model has for the round that starts from it."""

    digest: Digest


class Lineage(Message):
    """Where a model came from; ``details`` is what the round said: its updates, guest, hyperparameters and strategy."""

    line: str
    version: int
    digest: str
    created_at: str
    parent: int | None = None
    round_id: str | None = None
    details: dict[str, Any] = {}


class ParticipantView(Message):
    proplet_id: str
    state: str
    task_id: str | None = None
    code: str | None = None
    error: str | None = None
    num_samples: int | None = None
    metrics: dict[str, Any] | None = None
    launched_at: str | None = None
    ended_at: str | None = None


class RoundSummary(RoundStatus):
    """Times are RFC 3339 in UTC; ``seconds`` is how long the round took, or has taken so far."""

    experiment_id: str
    model_ref: str
    created_at: str
    deadline: str
    aggregating_at: str | None = None
    finished_at: str | None = None
    seconds: float


class RoundView(RoundSummary):
    timeout_s: float
    task_wasm_image: str
    hyperparams: dict[str, Any]
    base_digest: str
    model_digest: str | None = None
    participants: list[ParticipantView]


class RoundPage(Message):
    offset: int
    limit: int
    total: int
    rounds: list[RoundSummary]


class NextRound(Message):
    """The newest model that a round made, in Propeller's words."""

    next_round_available: bool
    message: str | None = None
    last_completed_round: str | None = None
    new_model_version: int | None = None
    model_uri: str | None = None
    status: str | None = None


class Lines(Message):
    lines: list[str]


class Versions(Message):
    versions: list[int]


class StoredModel(Message):
    version: int
    status: str
