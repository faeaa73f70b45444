"""One run of a job or a workflow, kept in step with its tasks: what follows from an end costs what that end changes.

Decisions only, no I/O. A **workflow** goes on as long as anything can: a failure concerns those that depend on it. A **job**
is done for with its first failure: what runs is stopped and what waits is skipped, except what was declared for that case, a
task with ``run_if: failure`` below the failed one and what depends on it. An interrupted task breaks a job as a failed one
does; for ``run_if`` it has neither succeeded nor failed, so nothing that depends on it runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable

from manager.plans.dag import Mode, Nodes, Plan, described, handlers, order
from manager.state.states import TaskState

_BREAKS = frozenset({TaskState.FAILED, TaskState.INTERRUPTED})


class Course:
    """``due`` says what follows from everything, ``ended`` what follows from one end; what they say counts as carried out.

    The nodes are not looked at again but for what changes, and their states not at all: those are kept here.
    """

    def __init__(self, nodes: Nodes, mode: Mode) -> None:
        self._nodes = nodes
        self._mode = mode
        self._order = order({i: node.depends_on for i, node in nodes.items()})
        self._rank = {i: rank for rank, i in enumerate(self._order)}
        self._states = {i: node.state for i, node in nodes.items()}
        self._children: dict[str, list[str]] = {}
        self._waits: dict[str, int] = {}
        """For how many parents' ends each waits."""
        for i, node in nodes.items():
            self._waits[i] = sum(not self._states[parent].ended for parent in node.depends_on)
            for parent in node.depends_on:
                self._children.setdefault(parent, []).append(i)
        self._active = sum(state.active for state in self._states.values())
        self.open = sum(not state.ended for state in self._states.values())
        """How many have not ended."""
        self._turns: list[int] = []
        """Of a sequential job, the ranks of those that need only wait for their turn; a heap."""
        self._broken: str | None = None
        """What ended the job, for people."""
        self._kept: set[str] = set()
        """What goes on in a broken job: no later failure adds to it, since the rest of it waits no more."""
        if mode is not Mode.WORKFLOW:
            broken = next((i for i, state in self._states.items() if state in _BREAKS), None)
            if broken is not None:
                self._break(broken)

    def due(self, begin: Container[str] = ()) -> Plan:
        """Everything that follows, down to the last grandchild of a skipped task.

        A task without parents is started when somebody begins it; in a sequential job in its turn.
        """
        plan = self._look_at(range(len(self._order)), begin)
        return Plan(plan.start, plan.skip, self._unwanted())

    def ended(self, task_id: str, state: TaskState) -> Plan:
        """What follows from this end of a task alone."""
        children = self._end(task_id, state)
        if self._mode is not Mode.WORKFLOW and self._broken is None and state in _BREAKS:
            self._break(task_id)
            return self.due()
        if state is TaskState.COMPLETED:  # which forbids nothing
            children = [child for child in children if not self._waits[child]]
        return self._look_at([self._rank[child] for child in children])

    def halt(self, reason: str) -> Plan:
        """Somebody stops it all."""
        skip = tuple((i, reason) for i, state in self._states.items() if state is TaskState.PENDING)
        for i, _ in skip:
            self._end(i, TaskState.SKIPPED)
        return Plan(skip=skip, stop=tuple(i for i, state in self._states.items() if state.active))

    def _look_at(self, ranks: Iterable[int], begin: Container[str] = ()) -> Plan:
        """Parents come first, so that what follows from a skip is reached in the same pass."""
        start, skip, left = [], [], list(ranks)
        heapq.heapify(left)
        while left:
            rank = heapq.heappop(left)
            i = self._order[rank]
            if self._states[i] is not TaskState.PENDING:
                continue
            if reason := self.never_runs(i):
                skip.append((i, reason))
                for child in self._end(i, TaskState.SKIPPED):
                    heapq.heappush(left, self._rank[child])
            elif self._waits[i]:
                continue
            elif self._mode is Mode.SEQUENTIAL:
                heapq.heappush(self._turns, rank)
            elif self._nodes[i].depends_on or i in begin:
                start.append(self._begun(i))
        if self._mode is Mode.SEQUENTIAL and not self._active and (following := self._next_turn()) is not None:
            start.append(self._begun(following))
        return Plan(tuple(start), tuple(skip))

    def _next_turn(self) -> str | None:
        while self._turns:
            i = self._order[heapq.heappop(self._turns)]
            if self._states[i] is TaskState.PENDING:
                return i
        return None

    def _begun(self, i: str) -> str:
        self._states[i] = TaskState.SCHEDULED
        self._active += 1
        return i

    def _end(self, i: str, state: TaskState) -> list[str]:
        """Its children."""
        self._active -= self._states[i].active
        self._states[i] = state
        self.open -= 1
        children = self._children.get(i, [])
        for child in children:
            self._waits[child] -= 1
        return children

    def _break(self, i: str) -> None:
        self._broken = f"{self._nodes[i].name or i}, which {described(self._states[i])}"
        self._kept = handlers(self._nodes, self._states)

    def _unwanted(self) -> tuple[str, ...]:
        if self._broken is None:
            return ()
        return tuple(i for i, state in self._states.items() if state.active and i not in self._kept)

    def never_runs(self, i: str) -> str:
        """Why this task will not run, whatever is still to come; empty when it may."""
        reason = self._parents_forbid(i)
        if not reason and self._broken is not None and i not in self._kept:
            return f"the job ended with {self._broken}"
        return reason

    def _parents_forbid(self, i: str) -> str:
        node = self._nodes[i]
        if node.run_if != "failure":
            for parent in node.depends_on:
                state = self._states[parent]
                if state.ended and state is not TaskState.COMPLETED:
                    return f"it depends on {self._nodes[parent].name or parent}, which {described(state)}"
            return ""
        if self._waits[i] or any(self._states[parent] is TaskState.FAILED for parent in node.depends_on):
            return ""
        names = ", ".join(self._nodes[parent].name or parent for parent in node.depends_on)
        return f"it runs only if one of these fails, and none did: {names}"
