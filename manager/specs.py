"""What a task may say of itself when it is made or changed. Pure; what is stored already is not asked again."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from swashplate import references
from swashplate.errors import InvalidRequestError
from swashplate.ids import checked
from swashplate.messages import TaskCreate

MOST_METADATA_KEYS = 256
"""Each is indexed, and counted."""


def check(spec: TaskCreate, named: AbstractSet[str]) -> None:
    """Raises ``InvalidRequestError`` for what is wrong with the fields ``named``; the others were there before."""
    if "metadata" in named and len(spec.metadata) > MOST_METADATA_KEYS:
        raise InvalidRequestError(
            f"field metadata: {len(spec.metadata)} keys, at most {MOST_METADATA_KEYS} are kept",
            hint="a value may be an object of its own",
        )
    if {"is_recurring", "schedule"} & named and spec.is_recurring and not spec.schedule:
        raise InvalidRequestError(
            "field is_recurring: it needs a schedule", hint='for example "schedule": "30 2 * * MON-FRI"'
        )
    if "image_url" in named and spec.image_url:
        try:
            references.parse(spec.image_url)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"field image_url: {error.sentence}", code=error.code, hint=error.hint) from None


def group_kind(spec: TaskCreate) -> str:
    """``job`` or ``workflow`` for a task that names one. Raises ``InvalidRequestError`` when what it says makes no sense."""
    if spec.job_id and spec.workflow_id:
        raise InvalidRequestError("fields job_id and workflow_id: a task belongs to one of them at most")
    kind = "job" if spec.job_id else "workflow" if spec.workflow_id else ""
    if spec.depends_on and not kind:
        raise InvalidRequestError(
            "field depends_on: it needs the workflow_id or the job_id of the tasks that it names",
            hint="POST /workflows or POST /jobs makes them all together",
        )
    if kind:
        refuse_own_start(spec, kind)
    return kind


def refuse_own_start(spec: TaskCreate, kind: str, where: str = "") -> None:
    """``where`` comes before the field's name."""
    for name, wrong in (("schedule", spec.schedule), ("start", spec.start)):
        if wrong:
            raise InvalidRequestError(f"field {where}{name}: a task of a {kind} runs when its {kind} does")


def group_id(text: str, field: str) -> str:
    """The id of a new job or workflow, in its one spelling."""
    try:
        return checked(text)
    except ValueError as error:
        raise InvalidRequestError(f"field {field}: {error}") from None
