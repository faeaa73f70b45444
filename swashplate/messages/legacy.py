"""What Propeller's components say to each other on the topics that they share.

Senders differ between releases and languages: an absent list may be ``null``, and a time may be RFC 3339 text, a number of
seconds, or Rust's ``{"secs_since_epoch", "nanos_since_epoch"}``. All of it reads the same here.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from swashplate.errors import InvalidRequestError
from swashplate.messages.base import Identifier, Json, JsonObject, Message

OFFLINE = "offline"
"""The ``status`` in a last will."""


def _text_of_time(value: object) -> object:
    match value:
        case {"secs_since_epoch": int(whole), "nanos_since_epoch": int(nanos)} if 0 <= nanos < 1_000_000_000:
            return nano_timestamp(whole, nanos)
        case str():
            at = datetime.fromisoformat(value)
            return value if at.tzinfo is not None else f"{value}Z"
        case bool() | None:
            raise ValueError("expected a time")
        case int():
            return nano_timestamp(value, 0)
        case float():
            whole = math.floor(value)
            return nano_timestamp(whole, round((value - whole) * 1e6) * 1000)
    raise ValueError("expected a time")


def nano_timestamp(seconds: int, nanos: int) -> str:
    """RFC 3339 in UTC, with as many of nine decimals as say something; raises ``ValueError`` outside the years 1 to 9999."""
    try:
        at = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (OverflowError, OSError) as error:
        raise ValueError("expected a time") from error
    decimals = f".{nanos:09}".rstrip("0") if nanos else ""
    return f"{at.isoformat(timespec='seconds')}{decimals}Z"


TimestampText = Annotated[str, BeforeValidator(_text_of_time)]
"""RFC 3339 to the nanosecond, from any of the three forms."""


class LegacyMessage(Message):
    """``null`` means the same as nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class LegacyCreate(LegacyMessage):
    """A proplet has started. Some senders' last will comes on this topic too: ``status`` is then ``offline``."""

    proplet_id: Identifier
    namespace: str = "default"
    metadata: JsonObject = Field(default_factory=dict)
    status: str | None = None


class LegacyAlive(LegacyMessage):
    """A heartbeat, or with ``status`` ``offline`` a last will; the services that are no proplets leave one as well."""

    proplet_id: Identifier
    status: str = "alive"
    namespace: str = "default"


_START_ALWAYS = {"id", "name", "state", "cli_args", "broadcast", "daemon", "latent", "encrypted"}


class LegacyStart(LegacyMessage):
    """For all proplets when ``broadcast`` is set, else for ``proplet_id``. ``state`` is the task's before the start.

    ``monitoring_profile`` has its ``interval`` in seconds where the reader is a proplet, in nanoseconds in the HTTP API.
    """

    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    state: int = 0
    image_url: str = ""
    file: str = ""
    inputs: list[str] = Field(default_factory=list)
    cli_args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    broadcast: bool = False
    daemon: bool = False
    latent: bool = False
    encrypted: bool = False
    kbs_resource_path: str = ""
    hal_storage_path: str = ""
    monitoring_profile: JsonObject = Field(default_factory=dict)
    parent_results: dict[str, Json] = Field(default_factory=dict)
    proplet_id: str = ""

    @property
    def round_id(self) -> str:
        """Not empty for a task that learns."""
        return self.env.get("ROUND_ID", "")

    def is_for(self, proplet_id: str) -> bool:
        return self.broadcast or self.proplet_id == proplet_id

    def encode(self) -> bytes:
        shown = self.model_dump(mode="json")
        return json.dumps({name: value for name, value in shown.items() if value or name in _START_ALWAYS}).encode()

    def file_bytes(self) -> bytes:
        """Raises ``InvalidRequestError``."""
        try:
            return base64.b64decode(self.file, validate=True)
        except binascii.Error as error:
            raise InvalidRequestError(f"file is not base64: {error}", code="not_wasm") from error


class LegacyStop(LegacyMessage):
    id: str = Field(min_length=1)
    broadcast: bool = False
    proplet_id: str = ""


class LegacyInvoke(LegacyMessage):
    """Call a latent task that ``proplet_id`` has precompiled."""

    id: str = Field(min_length=1)
    broadcast: bool = False
    proplet_id: str
    invocation_id: str = Field(min_length=1)
    inputs: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)


class LegacyInvokeResult(LegacyMessage):
    """How a call ended. It is not told whether it began."""

    task_id: str = ""
    invocation_id: str = ""
    proplet_id: Identifier
    results: Json = None
    error: str | None = None

    def encode(self) -> bytes:
        """``error`` is ``null`` when there is none."""
        return json.dumps(self.model_dump(mode="json")).encode()

    @property
    def not_there(self) -> bool:
        """The task is not, or not yet, precompiled there."""
        return "has not been precompiled" in (self.error or "")


class LegacyLearned(LegacyMessage):
    """The ``results`` of a task that learned: what the guest printed, in base64."""

    task_id: str = ""
    round_id: str
    proplet_id: Identifier
    num_samples: int = 1
    update_b64: str
    format: str = "f32-delta"
    metrics: JsonObject = Field(default_factory=dict)

    @classmethod
    def of(cls, printed: bytes, **fields: Any) -> Self:
        return cls(update_b64=base64.b64encode(printed).decode(), **fields)

    def printed(self) -> bytes:
        """Raises ``InvalidRequestError``."""
        try:
            return base64.b64decode(self.update_b64, validate=True)
        except binascii.Error as error:
            raise InvalidRequestError(f"update_b64 is not base64: {error}") from error


class LegacyResult(LegacyMessage):
    """How a task ended; no attempt is named. A task that learned says its ``proplet_id`` inside ``results`` only."""

    task_id: str = Field(min_length=1)
    proplet_id: Identifier | None = None
    results: Json = None
    error: str | None = None

    @property
    def sender(self) -> str:
        """Who it claims to be from; raises ``InvalidRequestError`` when it does not say."""
        inside = self.results.get("proplet_id") if isinstance(self.results, dict) else None
        claimed = self.proplet_id or inside
        if not isinstance(claimed, str):
            raise InvalidRequestError(f"the result of {self.task_id} names no proplet", code="wrong_sender")
        return claimed

    def encode(self) -> bytes:
        """``error`` is ``null`` when there is none."""
        shown = self.model_dump(mode="json")
        if self.proplet_id is None:
            del shown["proplet_id"]
        return json.dumps(shown).encode()


class LegacyMetrics(LegacyMessage):
    """What a proplet measured of its machine."""

    proplet_id: Identifier
    namespace: str = "default"
    timestamp: TimestampText = ""
    cpu_metrics: JsonObject = Field(default_factory=dict)
    memory_metrics: JsonObject = Field(default_factory=dict)


class LegacyTaskMetrics(LegacyMessage):
    """What a proplet measured of a task; no attempt is named."""

    task_id: str = Field(min_length=1)
    proplet_id: Identifier
    timestamp: TimestampText = ""
    metrics: JsonObject = Field(default_factory=dict)
    aggregated: JsonObject | None = None


class LegacyWanted(LegacyMessage):
    """A proplet wants the binary of an image reference."""

    app_name: str = Field(min_length=1, max_length=2048)


class LegacyChunk(LegacyMessage):
    """A piece of a binary, in base64; neither size nor digest is told."""

    app_name: str
    chunk_idx: int = Field(ge=0)
    total_chunks: int = Field(ge=1, le=1 << 20)
    data: str

    @classmethod
    def of(cls, content: bytes, **fields: Any) -> Self:
        return cls(data=base64.b64encode(content).decode(), **fields)

    def content(self) -> bytes:
        """Raises ``InvalidRequestError``."""
        try:
            return base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise InvalidRequestError(f"data of a chunk is not base64: {error}") from error
