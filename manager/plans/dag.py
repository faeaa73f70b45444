"""The graph of a job or a workflow: what may be declared, in which order it stands, and what its tasks' states make of it. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from manager.state.states import TaskState
from swashplate.errors import InvalidRequestError
from swashplate.ids import canonical


class Mode(StrEnum):
    """The first three are jobs. ``SEQUENTIAL`` runs one task at a time; the others run all that need not wait for a parent."""

    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"
    CONFIGURABLE = "configurable"
    WORKFLOW = "workflow"


@dataclass(frozen=True, slots=True)
class Declared:
    """A task as somebody wrote it: ``depends_on`` holds ids or names; ``endless`` is the field that lets it run until it is
    stopped.
    """

    id: str
    name: str
    depends_on: tuple[str, ...] = ()
    run_if: str = ""
    endless: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A task as it stands; ``depends_on`` holds ids."""

    state: TaskState
    depends_on: tuple[str, ...] = ()
    run_if: str = ""
    name: str = ""


Nodes = Mapping[str, Node]
"""By task id, in the order in which the tasks were declared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, what never runs and why, and what to stop."""

    start: tuple[str, ...] = ()
    skip: tuple[tuple[str, str], ...] = ()
    stop: tuple[str, ...] = ()


def resolve(tasks: Sequence[Declared], mode: Mode) -> dict[str, tuple[str, ...]]:
    """The ids of each task's parents, by its id, in the order given.

    Raises ``InvalidRequestError`` for an id given twice, a parent that is missing, or is named like another, a task that
    depends on itself, a cycle, a task that never ends and that another waits for, and ``run_if: failure`` without anything
    that could fail.
    """
    by_id: dict[str, Declared] = {}
    by_name: dict[str, list[Declared]] = {}
    for task in tasks:
        if task.id in by_id:
            raise InvalidRequestError(f"field tasks: the id {task.id} is given twice")
        by_id[task.id] = task
        by_name.setdefault(task.name, []).append(task)
    parents = {}
    for task in tasks:
        found = dict.fromkeys(_parent(task, said, by_id, by_name) for said in task.depends_on)
        if task.run_if == "failure" and not found:
            raise InvalidRequestError(
                f"task {task.name!r}: field run_if: failure needs a task in depends_on that can fail"
            )
        parents[task.id] = tuple(found)
    try:
        turns = order(parents)
    except CycleError as error:
        shown = " → ".join(by_id[i].name if len(by_name[by_id[i].name]) == 1 else i for i in error.cycle)
        raise InvalidRequestError(
            f"field depends_on: the tasks wait for each other: {shown}", code="dependency_cycle"
        ) from None
    for i, following in itertools.pairwise(turns if mode is Mode.SEQUENTIAL else ()):
        _refuse_endless(by_id[i], by_id[following])
    return parents


def _refuse_endless(task: Declared, waiting: Declared) -> None:
    if task.endless:
        raise InvalidRequestError(
            f"task {task.name!r}: field {task.endless}: it would run until it is stopped, and {waiting.name!r} waits for its end"
        )


def _parent(task: Declared, said: str, by_id: Mapping[str, Declared], by_name: Mapping[str, Sequence[Declared]]) -> str:
    named = by_name.get(said, ())
    found = by_id.get(said) or by_id.get(canonical(said)) or (named[0] if named else None)
    where = f"task {task.name!r}: field depends_on:"
    if found is None:
        raise InvalidRequestError(
            f"{where} there is no task {said!r}", code="missing_parent", hint="give a name or an id"
        )
    if len(named) > 1 and found is named[0]:
        raise InvalidRequestError(
            f"{where} {len(named)} tasks are named {said!r}", hint="give them ids and depend on an id"
        )
    if found.id == task.id:
        raise InvalidRequestError(f"{where} it depends on itself", code="dependency_cycle")
    _refuse_endless(found, task)
    return found.id


class CycleError(ValueError):
    """``cycle``: each followed by what waits for it, ending with its first."""

    def __init__(self, cycle: tuple[str, ...]) -> None:
        super().__init__(" → ".join(cycle))
        self.cycle = cycle


def order(parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Parents before children; otherwise as given. Raises ``CycleError``."""
    placed: dict[str, None] = {}
    for start in parents:
        path = {} if start in placed else {start: iter(parents[start])}
        while path:
            here, rest = next(reversed(path.items()))
            waits_for = next((parent for parent in rest if parent not in placed), None)
            if waits_for is None:
                del path[here]
                placed[here] = None
            elif waits_for in path:
                waiting = list(path)
                raise CycleError((waits_for, *reversed(waiting[waiting.index(waits_for) :])))
            else:
                path[waits_for] = iter(parents[waits_for])
    return tuple(placed)


def group_state(nodes: Nodes, mode: Mode) -> TaskState:
    """Pending until one of them has begun, running until all have ended, then completed or failed.

    A failed job says so when everything else has been stopped. In a workflow a failure does not count when it was declared
    what to do about it: a task with ``run_if: failure`` that depends on the failed one and has completed has dealt with it,
    as an ``except`` has with an exception. An interruption cannot be dealt with.
    """
    states = {node.state for node in nodes.values()}
    if states <= {TaskState.PENDING}:
        return TaskState.PENDING
    if not all(state.ended for state in states):
        return TaskState.RUNNING
    unhandled = _failed(nodes) - (_dealt_with(nodes) if mode is Mode.WORKFLOW else set())
    return TaskState.FAILED if unhandled or TaskState.INTERRUPTED in states else TaskState.COMPLETED


def _failed(nodes: Nodes) -> set[str]:
    return {i for i, node in nodes.items() if node.state is TaskState.FAILED}


def _dealt_with(nodes: Nodes) -> set[str]:
    handlers = (node for node in nodes.values() if node.run_if == "failure" and node.state is TaskState.COMPLETED)
    return {parent for handler in handlers for parent in handler.depends_on}


def handlers(nodes: Nodes, states: Mapping[str, TaskState]) -> set[str]:
    """What was declared for a failure that has happened, and what depends on that."""
    kept: set[str] = set()
    for i in order({i: node.depends_on for i, node in nodes.items()}):
        node = nodes[i]
        handles = node.run_if == "failure" and any(states[parent] is TaskState.FAILED for parent in node.depends_on)
        if handles or any(parent in kept for parent in node.depends_on):
            kept.add(i)
    return kept


def described(state: TaskState) -> str:
    """Of an ended task that has not completed, for people."""
    return {TaskState.FAILED: "failed", TaskState.INTERRUPTED: "was interrupted"}.get(state, "was skipped")
