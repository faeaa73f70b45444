"""The results that a task gets of those that it depends on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from manager.state.ledger import Ledger
from manager.state.records import Task
from manager.state.states import TaskState
from manager.work.dialects import Parents
from swashplate.blobs import BlobStore, sha256_digest

MOST_IN_START = 128 * 1024
"""Bytes of results that travel in a start; more of them are a blob."""


class ParentResults:
    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs

    async def of(self, task: Task) -> Parents:
        """Of those parents that have completed with a result."""
        if not task.spec.depends_on or task.group_id is None:
            return Parents()
        parents = [self._ledger.task(parent) for parent in task.spec.depends_on]
        text = _text(parent for parent in parents if parent is not None)
        if len(text) <= MOST_IN_START:
            return Parents(json.loads(text))
        digest = await asyncio.to_thread(self._blobs.put, text)
        return Parents(digest=digest, size=len(text))

    def needed(self) -> set[str]:
        """Digests of the blobs that tasks which are active may be fetching."""
        found: set[str] = set()
        for task in self._ledger.active_tasks():
            parents = [self._ledger.task(parent) for parent in task.spec.depends_on]
            known = [parent for parent in parents if parent is not None]
            if sum(len(parent.result or "") for parent in known) > MOST_IN_START // 2:
                found.add(sha256_digest(_text(known)))
        return found

    def forget(self, tasks: Iterable[Task]) -> None:
        """Remove the blobs that these tasks of one ended job or workflow were given."""
        by_id = {task.id: task for task in tasks}
        for task in by_id.values():
            parents = [by_id[parent] for parent in task.spec.depends_on if parent in by_id]
            if sum(len(parent.result or "") for parent in parents) > MOST_IN_START // 2:
                self._blobs.remove(sha256_digest(_text(parents)))


def _text(parents: Iterable[Task]) -> bytes:
    """The same bytes for the same results."""
    results = (
        f"{json.dumps(parent.id)}:{parent.result}"
        for parent in parents
        if parent.state is TaskState.COMPLETED and parent.result not in {None, "null"}
    )
    return f"{{{','.join(results)}}}".encode()
