"""Tasks that depend on each other, as a tree for the terminal. Pure: nothing is asked and nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swashplate.client.answers import Task

SIGNS = {
    "pending": "○",
    "scheduled": "◷",
    "running": "◐",
    "completed": "●",
    "failed": "✗",
    "skipped": "⊘",
    "interrupted": "■",
}


@dataclass
class Node:
    """A task below the one it waits for last; ``also`` names the others that it waits for."""

    task: Task
    also: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


def _resolved(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Task id → the tasks that it depends on, which may be named by id or by name."""
    by_id = {task.id: task for task in tasks}
    by_name = {task.name: task for task in tasks}
    return {
        task.id: [
            found
            for each in task.depends_on
            if (found := by_id.get(each) or by_name.get(each)) is not None and found is not task
        ]
        for task in tasks
    }


def _depths(tasks: Sequence[Task], parents: Mapping[str, Sequence[Task]]) -> dict[str, int]:
    """Task id → the longest way to it from a task without parents. A cycle, which no manager lets in, ends the count."""
    depths = {task.id: 0 for task in tasks}
    for _ in tasks:
        changed = False
        for task in tasks:
            depth = max((depths[parent.id] + 1 for parent in parents[task.id]), default=0)
            if depth > depths[task.id]:
                depths[task.id], changed = depth, True
        if not changed:
            return depths
    return dict.fromkeys(depths, 0)


def forest(tasks: Sequence[Task]) -> list[Node]:
    """Every task once, each below the deepest of the tasks that it depends on, in the order of ``tasks``."""
    parents = _resolved(tasks)
    depths = _depths(tasks, parents)
    nodes = {task.id: Node(task) for task in tasks}
    roots = []
    for task in tasks:
        above = [parent for parent in parents[task.id] if depths[parent.id] < depths[task.id]]
        if not above:
            roots.append(nodes[task.id])
            continue
        deepest = max(above, key=lambda parent: depths[parent.id])
        nodes[deepest.id].children.append(nodes[task.id])
        nodes[task.id].also = [parent.name for parent in parents[task.id] if parent is not deepest]
    return roots


def why(task: Task, tasks: Iterable[Task]) -> str:
    """Why a task was skipped, or why it waits; the manager's own words if it has some. Empty for all others."""
    if task.status not in {"skipped", "pending"}:
        return ""
    if task.error or task.waiting:
        return task.error or task.waiting
    above = _resolved([*tasks])[task.id]
    if task.status == "pending":
        open_ones = [parent.name for parent in above if not parent.ended]
        return f"waits for {_listed(open_ones)}" if open_ones else ""
    if task.run_if == "failure":
        return f"runs only if one fails, and {_listed([p.name for p in above])} did not"
    missing = [f"{parent.name} {_ended_as(parent.status)}" for parent in above if not parent.succeeded]
    return _listed(missing)


def _ended_as(status: str) -> str:
    return "failed" if status == "failed" else f"was {status}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
