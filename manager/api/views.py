"""What the API shows of tasks and attempts: the shape of each answer, and how it is made of a record.

The models describe the answers (and the tests hold the answers to them); the answers themselves are made as plain
dictionaries, which is faster.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from manager.state import results
from manager.state.records import Attempt, Task
from manager.state.store import LEFT_OUT, MOST_LISTED_RESULT
from swashplate.blobs import BlobStore
from swashplate.messages import GuestCapabilities, Message, MonitoringProfile, RunLimits, RunReport, TaskCreate

NEVER = "0001-01-01T00:00:00Z"
SHOWN_WHOLE = 20
"""Characters of base64; of a longer file only the two ends are shown."""
ENDS = 10

Status = Literal["pending", "scheduled", "running", "completed", "failed", "skipped", "interrupted"]
Time = Field(
    description=f"RFC 3339 in UTC; `{NEVER}` while it has not come.", json_schema_extra={"format": "date-time"}
)


class TaskView(Message):
    """A task. What is empty is left out, but for the fields that are always there."""

    id: str
    name: str
    kind: Literal["standard", "federated"]
    state: int = Field(ge=0, le=6, description="`status` as a number: 0 pending … 6 interrupted.")
    status: Status
    cli_args: list[str] | None
    daemon: bool
    encrypted: bool
    priority: int
    timeout_s: float
    retries: int
    run: int = Field(ge=0, description="How often it was started.")
    attempt: int = Field(ge=0, description="The number of its latest attempt, over all runs.")
    start_time: str = Time
    finish_time: str = Time
    created_at: str = Time
    updated_at: str = Time
    next_run: str = Time
    mode: str = ""
    image_url: str = ""
    file: str = Field(default="", description="The binary's base64; of a longer one only the two ends.")
    digest: str | None = None
    inputs: list[str] = []
    env: dict[str, str] = {}
    latent: bool = False
    concurrency: int = 0
    broadcast: bool = False
    restart: str = ""
    kbs_resource_path: str = ""
    hal_storage_path: str = ""
    monitoring_profile: MonitoringProfile | None = None
    dataset: str = ""
    selector: dict[str, str] = {}
    memory_bytes: int = 0
    wasm_features: list[str] = []
    limits: RunLimits | None = Field(default=None, description="What was asked for; the rest is up to the proplet.")
    isolation: str = ""
    deterministic: bool = False
    seed: int = 0
    capabilities: GuestCapabilities | None = None
    signatures: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    depends_on: list[str] = []
    run_if: str = ""
    workflow_id: str = ""
    job_id: str = ""
    schedule: str = ""
    timezone: str = ""
    is_recurring: bool = False
    missed_run: str = ""
    proplet_id: str | None = None
    results: Any = Field(default=None, description="What it produced; of a broadcast, by proplet.")
    results_omitted: bool = Field(
        default=False,
        description="It has results that are not shown here: they were too large for a message, or in a list have more than"
        f" {MOST_LISTED_RESULT} bytes. `GET /tasks/{{id}}/results` has them.",
    )
    error: str | None = None
    code: str | None = None
    stage: str = Field(
        default="", description="What its proplet does with it: fetching, waiting, compiling, running, ready."
    )
    waiting: str = Field(default="", description="Why it waits, in a sentence.")


class TaskPage(Message):
    offset: int
    limit: int
    total: int = Field(description="How many there are without offset and limit.")
    tasks: list[TaskView]


class AttemptView(Message):
    """One lease on one proplet."""

    attempt: int
    run: int
    proplet_id: str | None
    status: str
    stage: str = ""
    created_at: str = Time
    offered_at: str = Time
    accepted_at: str = Time
    finish_time: str = Time
    results: Any = None
    results_omitted: bool = Field(default=False, description="It has results, which were too large for a message.")
    error: str | None = None
    code: str | None = None
    report: RunReport | None = Field(default=None, description="How the run went, as far as its proplet has told.")


class AttemptList(Message):
    total: int
    attempts: list[AttemptView]


class Started(Message):
    started: Literal[True]
    run: int
    attempt: int


class Stopped(Message):
    stopped: Literal[True]


class Results(Message):
    """``results`` is null until there are any."""

    results: Any
    status: Status
    error: str | None = None
    code: str | None = None
    report: RunReport | None = Field(
        default=None, description="Of the last attempt; of a broadcast, each attempt has it."
    )


def changes_of(names: frozenset[str]) -> type[Message]:
    """The body that may name any of these fields of a task, and need name none."""
    fields: dict[str, Any] = {}
    for name in sorted(names):
        known = TaskCreate.model_fields[name]
        annotation: Any = Annotated[(known.annotation, *known.metadata)] if known.metadata else known.annotation
        fields[name] = (annotation | None, None)
    made: type[Message] = create_model(
        "TaskChanges", __base__=Message, __doc__="Some of a task's fields; what is null is left as it is.", **fields
    )
    return made


def timestamp(seconds: float | None) -> str:
    """RFC 3339 in UTC; the existing API writes the year 1 for a time that has not come."""
    if seconds is None:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def redacted(blobs: BlobStore, digest: str) -> str:
    """A stored file as the existing API shows it: the base64 of its bytes, of which a long one keeps its ends."""
    return _redacted(blobs.path(digest))


@lru_cache(maxsize=4096)
def _redacted(path: Path) -> str:
    """A blob never changes, so neither does this."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if (size + 2) // 3 * 4 <= SHOWN_WHOLE:
                return base64.b64encode(file.read()).decode()
            first = base64.b64encode(file.read(9)).decode()
            file.seek(max(0, (size - 9) // 3 * 3))
            last = base64.b64encode(file.read()).decode()
    except FileNotFoundError:
        return "<REDACTED>"
    return f"{first[:ENDS]}<REDACTED>{last[-ENDS:]}"


def task_json(task: Task, blobs: BlobStore) -> dict[str, Any]:
    """A task as the API shows it. Tokens never leave; ``state`` is the contract's number, ``status`` its name."""
    spec = task.spec
    shown: dict[str, Any] = {
        "id": task.id,
        "name": spec.name,
        "kind": spec.kind,
        "state": int(task.state),
        "status": task.state.name.lower(),
        "cli_args": spec.cli_args,
        "daemon": spec.daemon,
        "encrypted": spec.encrypted,
        "priority": spec.priority,
        "timeout_s": spec.timeout_s,
        "retries": spec.retries,
        "run": task.run,
        "attempt": task.attempt,
        "start_time": timestamp(task.started_at),
        "finish_time": timestamp(task.finished_at),
        "created_at": timestamp(task.created_at),
        "updated_at": timestamp(task.updated_at),
        "next_run": timestamp(task.next_run),
    }
    optional = {
        "mode": spec.mode,
        "image_url": spec.image_url,
        "file": redacted(blobs, spec.file) if spec.file else "",
        "digest": task.digest,
        "inputs": spec.inputs,
        "env": spec.env,
        "latent": spec.latent,
        "concurrency": spec.concurrency,
        "broadcast": spec.broadcast,
        "restart": spec.restart if spec.daemon else "",
        "kbs_resource_path": spec.kbs_resource_path,
        "hal_storage_path": spec.hal_storage_path,
        "monitoring_profile": spec.monitoring_profile and spec.monitoring_profile.model_dump(),
        "dataset": spec.dataset,
        "selector": spec.selector,
        "memory_bytes": spec.memory_bytes,
        "wasm_features": spec.wasm_features,
        "limits": spec.limits.model_dump(exclude_none=True),
        "isolation": spec.isolation,
        "deterministic": spec.deterministic,
        "seed": spec.seed,
        "capabilities": spec.capabilities.model_dump(exclude_defaults=True),
        "signatures": spec.signatures,
        "metadata": spec.metadata,
        "depends_on": spec.depends_on,
        "run_if": spec.run_if,
        "workflow_id": spec.workflow_id,
        "job_id": spec.job_id,
        "schedule": spec.schedule,
        "timezone": spec.timezone if spec.schedule else "",
        "is_recurring": spec.is_recurring,
        "missed_run": spec.missed_run if spec.schedule else "",
        "proplet_id": task.proplet_id or spec.proplet_id,
        "results": json.loads(task.result) if task.result and results.is_whole(task.result) else None,
        "results_omitted": task.result == LEFT_OUT or not results.is_whole(task.result),
        "error": task.error,
        "code": task.code,
    }
    return {**shown, **{name: value for name, value in optional.items() if value}}


def attempt_json(attempt: Attempt, stage: str = "") -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "run": attempt.run,
        "proplet_id": attempt.proplet_id,
        "status": str(attempt.state),
        **({"stage": stage} if stage else {}),
        "created_at": timestamp(attempt.created_at),
        "offered_at": timestamp(attempt.offered_at),
        "accepted_at": timestamp(attempt.accepted_at),
        "finish_time": timestamp(attempt.finished_at),
        **({"results": json.loads(attempt.result)} if attempt.result and results.is_whole(attempt.result) else {}),
        **({} if results.is_whole(attempt.result) else {"results_omitted": True}),
        **({"error": attempt.error, "code": attempt.code} if attempt.error else {}),
        **({"report": json.loads(attempt.report)} if attempt.report else {}),
    }
