"""What a body says about the tasks of a job or a workflow: checked, and with ids in the place of names. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from manager.plans.dag import Declared, Mode, resolve
from manager.specs import group_id, refuse_own_start
from swashplate.errors import InvalidRequestError
from swashplate.messages import GroupTask, JobCreate, TaskCreate, WorkflowCreate

Placed = tuple[TaskCreate, str]
"""What a task is to be, and its id."""


def task_key(kind: str, key: str) -> str:
    """Kept with the first task. A header has no line break, so no task made alone has such a key."""
    return f"{kind}\n{key}"


def node_of(task_id: str, spec: TaskCreate) -> Declared:
    """What the graph needs of a task that was made."""
    endless = "daemon" if spec.daemon else "latent" if spec.latent else ""
    return Declared(task_id, spec.name, tuple(spec.depends_on), spec.run_if, endless)


def declared(body: JobCreate | WorkflowCreate, kind: str) -> tuple[list[Placed], str | None]:
    """Each task with its id and its parents' ids, and the id that the whole is to have when the tasks name one."""
    ids = [task.id or str(uuid.uuid4()) for task in body.tasks]
    mode = Mode(body.execution_mode) if isinstance(body, JobCreate) else Mode.WORKFLOW
    parents = resolve([node_of(task_id, task) for task_id, task in zip(ids, body.tasks, strict=True)], mode)
    specs = []
    for position, (task_id, task) in enumerate(zip(ids, body.tasks, strict=True)):
        refuse_own_start(task, kind, f"tasks.{position}.")
        spec = TaskCreate.model_construct(
            task.model_fields_set - {"id"}, **{name: getattr(task, name) for name in TaskCreate.model_fields}
        )
        specs.append((spec.model_copy(update={"depends_on": list(parents[task_id])}), task_id))
    return specs, _given_id(body.tasks, kind)


def _given_id(tasks: Sequence[GroupTask], kind: str) -> str | None:
    own, other = ("job_id", "workflow_id") if kind == "job" else ("workflow_id", "job_id")
    if any(getattr(task, other) for task in tasks):
        raise InvalidRequestError(f"field tasks: a task of a {kind} has no {other}")
    given = {group_id(getattr(task, own), own) for task in tasks if getattr(task, own)}
    if len(given) > 1:
        raise InvalidRequestError(f"field tasks: the tasks name several {kind}s: {', '.join(sorted(given))}")
    return next(iter(given), None)


def placed(entry: Placed, kind: str, group_id: str) -> Placed:
    spec, task_id = entry
    return spec.model_copy(update={f"{kind}_id": group_id}), task_id
