"""The manager's task API, as its callers and the manager both see it."""

from __future__ import annotations

import base64
import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from swashplate.messages.base import Identifier, JsonObject, Message
from swashplate.messages.sandbox import RunTerms

MAX_METADATA_BYTES = 1 << 20
WASM_MAGIC = b"\0asm"
"""How every module and every component begins."""
MAX_START_BYTES = 192 * 1024
_PIECE = 1 << 20
"""Characters of base64 that are decoded in one go; between two pieces other threads have their turn."""


def _text_of_number(value: object) -> object:
    """Inputs may be strings or numbers; they travel as strings."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError("numbers must be finite")
        return str(value)
    raise ValueError("an input is a string or a number")


Input = Annotated[str, BeforeValidator(_text_of_number)]


def _as_environment(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not key:
            raise ValueError("the name of a variable must not be empty")
        if "=" in key:
            raise ValueError(f"the name of a variable must not contain '=': {key!r}")
        if "\0" in key or "\0" in text:
            raise ValueError(f"variable {key!r} must not contain NUL")
    return value


Environment = Annotated[dict[str, str], AfterValidator(_as_environment)]


class MonitoringProfile(Message):
    """What is measured while a task runs. ``interval`` is in nanoseconds, as the existing API has it (2 s: 2000000000)."""

    enabled: bool = True
    interval: int = Field(default=10_000_000_000, ge=100_000_000)
    collect_cpu: bool = True
    collect_memory: bool = True
    collect_disk_io: bool = True
    collect_threads: bool = True
    collect_file_descriptors: bool = True
    export_to_mqtt: bool = True
    retain_history: bool = True
    history_size: int = Field(default=100, ge=0, le=10_000)

    @property
    def interval_s(self) -> float:
        return self.interval / 1e9


class TaskCreate(RunTerms):
    """A task to be. ``image_url`` (an OCI reference) or ``file`` (base64 of a WASM binary) names what runs; a file can also
    be uploaded before the start.

    ``timeout_s`` covers everything from accepting the start to the result, in seconds; a ``daemon`` and a ``latent`` task
    have none. ``retries`` is how many further attempts follow one that ended for a reason that another attempt could
    change. ``start`` starts it in the same call. ``broadcast`` runs it on every proplet that lives at the start.
    ``selector``, ``memory_bytes`` and ``wasm_features`` are what a proplet must have to be given it. ``schedule`` is a
    5-field cron expression in ``timezone``; without ``is_recurring`` it fires once.
    """

    name: str = Field(min_length=1, max_length=256)
    kind: Literal["standard", "federated"] = "standard"
    mode: Literal["", "infer", "train"] = ""
    image_url: str = Field(default="", max_length=2048)
    file: str = ""
    inputs: list[Input] = Field(default_factory=list, max_length=1024)
    cli_args: list[str] | None = None
    env: Environment = Field(default_factory=dict)
    proplet_id: Identifier | None = None
    broadcast: bool = False
    daemon: bool = False
    restart: Literal["never", "on_failure", "always"] = "on_failure"
    latent: bool = False
    concurrency: int = Field(default=0, ge=0, le=1024)
    encrypted: bool = False
    kbs_resource_path: str = Field(default="", max_length=2048)
    hal_storage_path: str = Field(default="", max_length=4096)
    monitoring_profile: MonitoringProfile | None = None
    dataset: str = Field(default="", max_length=256)
    selector: dict[str, str] = Field(default_factory=dict)
    memory_bytes: int = Field(default=0, ge=0)
    wasm_features: list[str] = Field(default_factory=list, max_length=64)
    priority: int = Field(default=50, ge=0, le=100)
    metadata: JsonObject = Field(default_factory=dict)
    timeout_s: float = Field(default=300, gt=0, le=30 * 86400)
    retries: int = Field(default=0, ge=0, le=100)
    depends_on: list[str] = Field(default_factory=list, max_length=1024)
    run_if: Literal["", "success", "failure"] = ""
    workflow_id: str = Field(default="", max_length=256)
    job_id: str = Field(default="", max_length=256)
    schedule: str = Field(default="", max_length=256)
    timezone: str = Field(default="UTC", max_length=64)
    is_recurring: bool = False
    missed_run: Literal["skip", "run_once"] = "skip"
    tokens: dict[str, str] = Field(default_factory=dict)
    start: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.image_url and self.file:
            raise ValueError("only one of image_url and file may be given")
        if self.broadcast and self.proplet_id is not None:
            raise ValueError("broadcast and proplet_id exclude each other")
        if self.daemon and self.latent:
            raise ValueError("daemon and latent exclude each other")
        if any("\0" in text for text in (self.name, *self.inputs, *(self.cli_args or ()))):
            raise ValueError("name, inputs and cli_args must not contain NUL")
        if self.metadata and len(self.model_dump_json(include={"metadata"}).encode()) > MAX_METADATA_BYTES:
            raise ValueError(f"metadata must be at most {MAX_METADATA_BYTES} bytes")
        rest = len(self.model_dump_json(exclude={"file", "metadata"}, exclude_unset=True).encode())
        if rest > MAX_START_BYTES:
            raise ValueError(
                f"name, inputs, cli_args and env together must be at most {MAX_START_BYTES} bytes, got {rest}"
            )
        return self


class InvokeRequest(Message):
    """One call of a latent task. ``inputs`` replace the task's unless empty, ``env`` is merged over it.

    ``timeout_s`` covers everything from the request to the result, in seconds. ``async`` asks for an answer as soon as the
    call is durable; otherwise the answer is its result.
    """

    inputs: list[Input] = Field(default_factory=list, max_length=1024)
    env: Environment = Field(default_factory=dict)
    timeout_s: float = Field(default=300, gt=0, le=300)
    later: bool = Field(default=False, alias="async")

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: object) -> object:
        """A caller that has none may say ``null``."""
        if not isinstance(value, dict):
            return value
        return {k: v for k, v in value.items() if v is not None or k not in {"inputs", "env"}}

    @model_validator(mode="after")
    def _sendable(self) -> Self:
        if any("\0" in text for text in self.inputs):
            raise ValueError("inputs must not contain NUL")
        if (size := len(self.model_dump_json().encode())) > MAX_START_BYTES:
            raise ValueError(f"inputs and env together must be at most {MAX_START_BYTES} bytes, got {size}")
        return self


def wasm_of(text: str) -> bytes:
    """The WASM binary that is ``text`` in base64; raises ``ValueError`` when it is none."""
    try:
        if text.find("=", 0, max(0, len(text) - 2)) >= 0:
            raise ValueError("padding before the end")
        pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
        content = b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except ValueError as error:
        raise ValueError(f"file is not base64: {error}") from error
    if not content.startswith(WASM_MAGIC):
        raise ValueError("file is not a WASM binary: it does not start with the bytes 00 61 73 6d")
    return content
