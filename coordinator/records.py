"""What the coordinator knows about a round: frozen records, replaced and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.models import Shapes
from coordinator.states import OVER, ParticipantState, RoundState
from swashplate.messages import ExperimentConfig
from swashplate.model_ref import ModelRef


@dataclass(frozen=True, slots=True)
class Round:
    """Times are seconds since 1970. ``base`` is the model it starts from, ``model_version`` the one it made."""

    config: ExperimentConfig
    base: ModelRef
    base_digest: str
    base_shapes: Shapes
    k_of_n: int
    created_at: float
    deadline: float
    state: RoundState = RoundState.CONFIGURED
    code: str = ""
    error: str = ""
    answer: str = ""
    """What the first request for this round was told, as JSON; the same request again is told the same."""
    aggregating_at: float | None = None
    finished_at: float | None = None
    model_version: int | None = None
    model_digest: str = ""
    announced: bool = False

    @property
    def id(self) -> str:
        return self.config.round_id

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def model(self) -> ModelRef | None:
        return None if self.model_version is None else ModelRef(self.base.line, self.model_version)


@dataclass(frozen=True, slots=True)
class Participant:
    """``code`` and ``error`` say why it is not launched or how its task ended."""

    proplet_id: str
    state: ParticipantState = ParticipantState.PENDING
    task_id: str = ""
    code: str = ""
    error: str = ""
    wasm_digest: str = ""
    launched_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class UpdateKey:
    """What makes two updates of a participant the same: the tensors' digest and the number of samples."""

    digest: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class ReceivedUpdate:
    """``body`` is the canonical JSON of the participant's whole new model; ``metrics`` is JSON text."""

    proplet_id: str
    key: UpdateKey
    metrics: str
    received_at: float
    body: bytes


Participants = Mapping[str, Participant]
UpdateKeys = Mapping[str, UpdateKey]
