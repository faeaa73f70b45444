"""What two processes say to each other: frozen models, checked at the edge where they arrive."""

from swashplate.messages.base import Digest, Message, digest_hex
from swashplate.messages.control import (
    Ack,
    Alive,
    Announce,
    AttemptRef,
    AttemptStatus,
    Capabilities,
    ProcessUrls,
    PropletCreate,
    Result,
    Start,
    Stop,
)
from swashplate.messages.learning import (
    PROPLET_IDS_HINT,
    ExperimentAnswer,
    ExperimentConfig,
    Launched,
    RoundNext,
    RoundStart,
    RoundTask,
    Skipped,
    Update,
)
from swashplate.messages.registry import BlobInfo, BlobRequest, Resolve, Resolved
from swashplate.messages.tasks import TaskCreate

__all__ = [
    "PROPLET_IDS_HINT",
    "Ack",
    "Alive",
    "Announce",
    "AttemptRef",
    "AttemptStatus",
    "BlobInfo",
    "BlobRequest",
    "Capabilities",
    "Digest",
    "ExperimentAnswer",
    "ExperimentConfig",
    "Launched",
    "Message",
    "ProcessUrls",
    "PropletCreate",
    "Resolve",
    "Resolved",
    "Result",
    "RoundNext",
    "RoundStart",
    "RoundTask",
    "Skipped",
    "Start",
    "Stop",
    "TaskCreate",
    "Update",
    "digest_hex",
]
