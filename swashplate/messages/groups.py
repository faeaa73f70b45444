"""Jobs and workflows, as their callers and the manager both see them."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from swashplate.messages.base import Message
from swashplate.messages.tasks import TaskCreate

MOST_TASKS = 10_000


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a UUID") from None


class GroupTask(TaskCreate):
    """A task of a job or a workflow. ``depends_on`` holds names or ids of other tasks of the same body."""

    id: Annotated[str, AfterValidator(_uuid)] | None = None


Tasks = Annotated[list[GroupTask], Field(min_length=1, max_length=MOST_TASKS)]


class JobCreate(Message):
    """Tasks that are done for together: the first that fails stops and skips the others.

    ``parallel`` and ``configurable`` start every task as soon as those that it depends on have ended; ``sequential`` runs
    one task after another, in the order given. ``start`` starts it in the same call.
    """

    name: str = Field(default="", max_length=256)
    tasks: Tasks
    execution_mode: Literal["parallel", "sequential", "configurable"] = "parallel"
    start: bool = False


class WorkflowCreate(Message):
    """Tasks that depend on each other: a failure concerns only those that depend on the failed one.

    A task runs when all that it depends on have completed; with ``run_if: failure`` when they have ended and one of them
    has failed. ``start`` starts it in the same call.
    """

    name: str = Field(default="", max_length=256)
    tasks: Tasks
    start: bool = False
