"""What a job or a workflow does next: pure decisions over its tasks' states and what they depend on.

A **workflow** goes on as long as anything can: a failure concerns those that depend on it. A **job** is done for with its
first failure: what runs is stopped and what waits is skipped, except what was declared for that case, a task with ``run_if:
failure`` below the failed one and what depends on it. An interrupted task breaks a job as a failed one does; for ``run_if``
it has neither succeeded nor failed, so nothing that depends on it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from manager.state.states import TaskState
from swashplate.errors import InvalidRequestError


class Mode(StrEnum):
    """The first three are jobs. ``SEQUENTIAL`` runs one task at a time; the others run all that need not wait for a parent."""

    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"
    CONFIGURABLE = "configurable"
    WORKFLOW = "workflow"


@dataclass(frozen=True, slots=True)
class Declared:
    """A task as somebody wrote it: ``depends_on`` holds ids or names; ``endless`` tasks run until they are stopped."""

    id: str
    name: str
    depends_on: tuple[str, ...] = ()
    run_if: str = ""
    endless: bool = False


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


def resolve(tasks: Sequence[Declared]) -> dict[str, tuple[str, ...]]:
    """The ids of each task's parents, by its id, in the order given.

    Raises ``InvalidRequestError`` for an id given twice, a parent that is missing, or is named like another, a task that
    depends on itself or on one that never ends, a cycle, and ``run_if: failure`` without anything that could fail.
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
    if cycle := _cycle(parents):
        shown = " → ".join(by_id[i].name if len(by_name[by_id[i].name]) == 1 else i for i in cycle)
        raise InvalidRequestError(f"field depends_on: the tasks wait for each other: {shown}", code="dependency_cycle")
    return parents


def _parent(task: Declared, said: str, by_id: Mapping[str, Declared], by_name: Mapping[str, Sequence[Declared]]) -> str:
    named = by_name.get(said, ())
    found = by_id.get(said) or (named[0] if named else None)
    where = f"task {task.name!r}: field depends_on:"
    if found is None:
        raise InvalidRequestError(
            f"{where} there is no task {said!r}", code="missing_parent", hint="give a name or an id"
        )
    if said not in by_id and len(named) > 1:
        raise InvalidRequestError(
            f"{where} {len(named)} tasks are named {said!r}", hint="give them ids and depend on an id"
        )
    if found.id == task.id:
        raise InvalidRequestError(f"{where} it depends on itself", code="dependency_cycle")
    if found.endless:
        raise InvalidRequestError(f"{where} {found.name!r} runs until it is stopped, so nothing can wait for its end")
    return found.id


def order(parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Parents before children; otherwise as given. Raises ``ValueError`` for a cycle."""
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
                raise ValueError(f"{waits_for} depends on itself")
            else:
                path[waits_for] = iter(parents[waits_for])
    return tuple(placed)


def _cycle(parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """One cycle, each followed by what waits for it and ending with its first; empty when there is none."""
    left = dict(parents)
    while free := [i for i, above in left.items() if not any(parent in left for parent in above)]:
        for i in free:
            del left[i]
    if not left:
        return ()
    path = [next(iter(left))]
    while path.count(path[-1]) == 1:
        path.append(next(parent for parent in left[path[-1]] if parent in left))
    return tuple(reversed(path[path.index(path[-1]) :]))


def roots(nodes: Nodes) -> tuple[str, ...]:
    return tuple(i for i, node in nodes.items() if not node.depends_on)


def advance(nodes: Nodes, mode: Mode, *, begin: bool = False) -> Plan:
    """What follows from the states: everything at once, down to the last grandchild of a skipped task.

    Tasks without parents are started with ``begin``, when somebody starts the whole; in a sequential job in their turn.
    Once it is carried out, asking again adds nothing until a task ends; what is to be stopped is told until it has ended.
    """
    parents = {i: node.depends_on for i, node in nodes.items()}
    states = {i: node.state for i, node in nodes.items()}
    broken = None if mode is Mode.WORKFLOW else _broken(nodes)
    kept = _handlers(nodes) if broken else set(nodes)
    start, skip = [], []
    # Parents come first, so that one pass reaches the last grandchild.
    for i in order(parents):
        if states[i] is not TaskState.PENDING:
            continue
        reason = _never_runs(i, nodes, states) or ("" if i in kept else f"the job ended with {broken}")
        if reason:
            states[i] = TaskState.SKIPPED
            skip.append((i, reason))
        elif (parents[i] or begin or mode is Mode.SEQUENTIAL) and all(states[p].ended for p in parents[i]):
            start.append(i)
    stop = tuple(i for i, state in states.items() if state.active and i not in kept)
    if mode is Mode.SEQUENTIAL:
        start = [] if any(state.active for state in states.values()) else start[:1]
    return Plan(tuple(start), tuple(skip), stop)


def halt(nodes: Nodes, reason: str) -> Plan:
    """Somebody stops it all."""
    return Plan(
        skip=tuple((i, reason) for i, node in nodes.items() if node.state is TaskState.PENDING),
        stop=tuple(i for i, node in nodes.items() if node.state.active),
    )


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


def _broken(nodes: Nodes) -> str | None:
    """What ended the job, for people."""
    for i, node in nodes.items():
        if node.state in {TaskState.FAILED, TaskState.INTERRUPTED}:
            return f"{node.name or i}, which {_said(node.state)}"
    return None


def _handlers(nodes: Nodes) -> set[str]:
    """What was declared for a failure that has happened, and what depends on that."""
    failed = _failed(nodes)
    kept: set[str] = set()
    for i in order({i: node.depends_on for i, node in nodes.items()}):
        node = nodes[i]
        handles = node.run_if == "failure" and any(parent in failed for parent in node.depends_on)
        if handles or any(parent in kept for parent in node.depends_on):
            kept.add(i)
    return kept


def _never_runs(i: str, nodes: Nodes, states: Mapping[str, TaskState]) -> str:
    """Why its parents' ends keep it from ever running; empty when they do not, or not yet."""
    node = nodes[i]
    if node.run_if != "failure":
        for parent in node.depends_on:
            if states[parent].ended and states[parent] is not TaskState.COMPLETED:
                return f"it depends on {nodes[parent].name or parent}, which {_said(states[parent])}"
        return ""
    ended = all(states[parent].ended for parent in node.depends_on)
    if not ended or any(states[parent] is TaskState.FAILED for parent in node.depends_on):
        return ""
    return f"it runs only if one of these fails, and none did: {_listed(nodes[p].name or p for p in node.depends_on)}"


def _said(state: TaskState) -> str:
    return {TaskState.FAILED: "failed", TaskState.INTERRUPTED: "was interrupted"}.get(state, "was skipped")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
