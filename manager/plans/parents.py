"""The results that a task gets of those that it depends on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from manager.large_results import LargeResults
from manager.state import results
from manager.state.ledger import Ledger
from manager.state.records import Task
from manager.state.states import TaskState
from manager.work.dialects import Parents
from swashplate.blobs import BlobStore, sha256_digest

MOST_IN_START = 128 * 1024
"""Bytes of results that travel in a start; more of them are a blob."""


class ParentResults:
    def __init__(self, ledger: Ledger, blobs: BlobStore, large: LargeResults) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._large = large
        self._given: dict[str, str] = {}
        """Stored results that were large, and the digest of the blob that was made of them."""

    async def of(self, task: Task) -> Parents:
        """Of those parents that have completed with a result."""
        if not task.spec.depends_on or task.group_id is None:
            return Parents()
        parents = [self._ledger.task(parent) for parent in task.spec.depends_on]
        stored = _stored(parent for parent in parents if parent is not None)
        size = results.size(stored)
        if size <= MOST_IN_START:
            return Parents(json.loads(stored))
        return Parents(digest=await self._blob(stored), size=size)

    async def _blob(self, stored: str) -> str:
        if results.is_whole(stored):
            return await asyncio.to_thread(self._blobs.put, stored.encode())
        known = self._given.get(stored)
        if known is not None and self._blobs.has(known):
            return known
        with self._blobs.writer() as writer:
            async for piece in self._large.bytes_of(stored):
                await asyncio.to_thread(writer.write, piece)
            await asyncio.to_thread(writer.commit)
        self._given[stored] = writer.digest
        return writer.digest

    def needed(self) -> set[str]:
        """Digests of the blobs that tasks which are active may be fetching. What is made of large results is made again."""
        found: set[str] = set()
        for task in self._ledger.active_tasks():
            parents = [self._ledger.task(parent) for parent in task.spec.depends_on]
            stored = _stored(parent for parent in parents if parent is not None)
            if results.is_whole(stored) and len(stored) > MOST_IN_START:
                found.add(sha256_digest(stored.encode()))
        return found

    def forget(self, tasks: Iterable[Task]) -> None:
        """Remove the blobs that these tasks of one ended job or workflow were given."""
        by_id = {task.id: task for task in tasks}
        for task in by_id.values():
            stored = _stored(by_id[parent] for parent in task.spec.depends_on if parent in by_id)
            if not results.is_whole(stored):
                digest = self._given.pop(stored, None)
                if digest is not None:
                    self._blobs.remove(digest)
            elif len(stored) > MOST_IN_START:
                self._blobs.remove(sha256_digest(stored.encode()))


def _stored(parents: Iterable[Task]) -> str:
    """The same for the same results, as a result is stored."""
    found = (
        f"{json.dumps(parent.id)}:{parent.result}"
        for parent in parents
        if parent.state is TaskState.COMPLETED and parent.result not in {None, "null"}
    )
    return f"{{{','.join(found)}}}"
