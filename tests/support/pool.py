"""A pool of real workers over folders of its own, and jobs for it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import wasmtime

from proplet.runtime.pool import WorkerPool
from proplet.runtime.task_folder import TaskFolders
from proplet.sandbox.bounds import Bounds
from proplet.sandbox.frames import Answer, Job, Limits
from proplet.work.course import Course
from proplet.work.outgoing import Ref

LIMITS = Limits(memory=512 << 20, output=64 << 20, files=10_000)


class Guests:
    """Runs guests in ``pool``."""

    def __init__(self, pool: WorkerPool, folders: TaskFolders, binaries: Path) -> None:
        self.pool = pool
        self.folders = folders
        self._binaries = binaries
        self.stderr = b""
        self.stages: list[str] = []

    def job(self, guest: str | bytes, **fields: Any) -> Job:
        """``guest`` is WAT or WASM."""
        content = bytes(wasmtime.wat2wasm(guest)) if isinstance(guest, str) else guest
        digest = hashlib.sha256(content).hexdigest()
        binary = self._binaries / digest
        binary.write_bytes(content)
        known: dict[str, Any] = {"digest": f"sha256:{digest}", "binary": str(binary), "name": "task", "limits": LIMITS}
        folder = self.folders.fresh().path
        return Job(**{**known, "folder": str(folder), "inputs": [], "cli_args": [], "env": {}, **fields})

    async def run(self, job: Job) -> Answer:
        async with self.pool.slot:
            return await self.pool.run(job, self._heard, Course(Ref("task", 1), self._entered))

    def _heard(self, text: bytes) -> None:
        self.stderr += text

    def _entered(self, course: Course) -> None:
        self.stages.append(course.stage)

    async def printed(self, guest: str | bytes, **fields: Any) -> bytes:
        """The stdout of a run that must succeed."""
        job = self.job(guest, **fields)
        answer = await self.run(job)
        assert not answer.error, answer
        return (Path(job.folder) / "stdout").read_bytes()


@asynccontextmanager
async def standing(
    root: Path, slots: int = 1, bounds: Bounds | None = None, wall_s: float = 60.0
) -> AsyncIterator[Guests]:
    """Below ``root``: ``tasks``, ``modules``, ``empty`` and ``binaries``."""
    (root / "binaries").mkdir(exist_ok=True)
    folders = TaskFolders(root / "tasks")
    try:
        pool = WorkerPool(slots, root / "modules", root / "empty", folders.root, bounds or Bounds(), wall_s)
        async with pool:
            yield Guests(pool, folders, root / "binaries")
    finally:
        folders.close()
