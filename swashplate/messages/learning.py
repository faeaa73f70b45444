"""Between the learning façade of the manager, the coordinator and the proplets."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from swashplate.messages.base import Identifier, JsonObject, Message
from swashplate.words import counted

PROPLET_IDS_HINT = (
    "a proplet goes by its client id, the UUID in PROPLET_CLIENT_ID, PROPLET_2_CLIENT_ID, … of the env file;"
    " proplet-1 and the like are only labels. GET /proplets of the manager lists the ids"
)
"""For whoever names a proplet that is not there."""

Participants = Annotated[list[Identifier], Field(min_length=1, max_length=10_000)]


class ExperimentConfig(Message):
    """One round: who trains, on which model, with which guest, and how many updates make it complete.

    ``k_of_n`` defaults to every participant. ``timeout_s`` is the round's whole time in seconds.
    """

    model_config = ConfigDict(extra="forbid")

    experiment_id: str = Field(default="", max_length=256)
    round_id: Identifier
    model_ref: str = Field(min_length=1, max_length=512)
    participants: Participants
    hyperparams: JsonObject = Field(default_factory=dict)
    k_of_n: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=60, gt=0, le=7 * 86400)
    task_wasm_image: str = Field(min_length=1, max_length=2048)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.participants)) != len(self.participants):
            raise ValueError("participants must not repeat")
        if self.k_of_n is not None and self.k_of_n > len(self.participants):
            raise ValueError(f"k_of_n is {self.k_of_n}, more than the {counted(len(self.participants), 'participant')}")
        return self


class RoundStart(Message):
    """A round asked for over MQTT; the same as an ``ExperimentConfig`` with the model under another name."""

    experiment_id: str = ""
    round_id: Identifier
    model_uri: str
    task_wasm_image: str
    participants: Participants
    hyperparams: JsonObject = Field(default_factory=dict)
    k_of_n: int | None = None
    timeout_s: float = 60

    def as_config(self) -> ExperimentConfig:
        fields = self.model_dump()
        fields["model_ref"] = fields.pop("model_uri")
        return ExperimentConfig(**fields)


class Launched(Message):
    proplet_id: str
    task_id: str


class Skipped(Message):
    proplet_id: str
    reason: str
    code: str


class ExperimentAnswer(Message):
    experiment_id: str
    round_id: str
    status: str = "configured"
    model_version: int | None = None
    launched: list[Launched] = Field(default_factory=list)
    skipped: list[Skipped] = Field(default_factory=list)
    pending: list[Skipped] = Field(default_factory=list)


class RoundTask(Message):
    """How the task of one participant ended; sent when it can no longer deliver an update."""

    round_id: Identifier
    proplet_id: Identifier
    task_id: str
    status: Literal["completed", "failed", "interrupted"]
    digest: str = ""
    code: str = ""
    error: str = ""


class RoundNext(Message):
    """A round is over and its model is readable."""

    round_id: str
    new_model_version: int
    model_uri: str
    status: Literal["complete"] = "complete"
    next_round_available: bool = True
    timestamp: str


class Update(Message):
    """What one participant learned: ``update`` holds its whole new model, ``num_samples`` the rows it trained on."""

    round_id: Identifier
    proplet_id: Identifier
    base_model_uri: str = ""
    num_samples: int = Field(gt=0, le=1 << 53)
    metrics: JsonObject = Field(default_factory=dict)
    update: JsonObject


class UpdateAnswer(Message):
    """What became of an update: accepted, duplicate, or ignored with the code ``round_closed``."""

    status: str
    code: str | None = None


class RoundStatus(Message):
    """``completed`` is true only when ``model_version`` can be read from the model registry."""

    round_id: str
    completed: bool
    num_updates: int
    k_of_n: int
    status: str
    model_version: int | None = None
    model_uri: str | None = None
    code: str | None = None
    error: str | None = None


class ParticipantTask(Message):
    """What a participant of a round is to do, in Propeller's words."""

    round_id: str
    model_ref: str
    config: JsonObject
    hyperparams: JsonObject


class ParticipantTaskAnswer(Message):
    task: ParticipantTask


EXPERIMENT_EXAMPLE: dict[str, Any] = {
    "experiment_id": "hospitals",
    "round_id": "round-1",
    "model_ref": "fl/models/global_model_v0",
    "participants": ["4f1e5a0c-6f5e-4f6e-9a57-0c9fbb8f7f10"],
    "hyperparams": {"epochs": 1, "lr": 0.01},
    "k_of_n": 1,
    "timeout_s": 60,
    "task_wasm_image": "localhost:5000/fl-client:latest",
}
UPDATE_EXAMPLE: dict[str, Any] = {
    "round_id": "round-1",
    "proplet_id": "4f1e5a0c-6f5e-4f6e-9a57-0c9fbb8f7f10",
    "base_model_uri": "fl/models/global_model_v0",
    "num_samples": 12,
    "metrics": {"loss": 0.4},
    "update": {"w": [0.1, -0.2, 0.3], "b": 0.05},
}
"""As every service that takes them shows them."""
