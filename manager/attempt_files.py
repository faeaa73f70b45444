"""What attempts leave in files: large results and logs, in a folder for each task and in it one for each attempt, and one for
each invocation with a large result.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from manager.state.records import AttemptKey, ResultKey
from swashplate import logging
from swashplate.files import make_folder

log = logging.get("attempt_files")


class AttemptFiles:
    """Made when they are first needed; they go with their task."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tasks: set[str] = set()
        """Those that have a folder: a task that left nothing costs nothing when it is deleted."""

    def of(self, key: ResultKey) -> Path:
        """The folder of an attempt or invocation, which need not be there."""
        return self.root / key.task_id / key.place

    def made(self, key: ResultKey) -> Path:
        """The same, made durable unless it was there."""
        self._tasks.add(key.task_id)
        folder = self.of(key)
        make_folder(folder)
        return folder

    def for_log(self, key: AttemptKey) -> Path:
        """The folder of an attempt, made for what need not survive a crash of the machine."""
        self._tasks.add(key.task_id)
        folder = self.of(key)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def tasks(self) -> list[str]:
        return [folder.name for folder in self.root.iterdir()] if self.root.is_dir() else []

    def collect(self, there: Iterable[str], existing: Iterable[str]) -> None:
        """Of the folders of the tasks ``there``, keep those of the tasks that exist."""
        kept = set(existing)
        for task_id in set(there) - kept:
            self._remove(task_id)
        self._tasks = kept

    def remove(self, task_id: str) -> None:
        """Its task is no more."""
        if task_id in self._tasks:
            self._tasks.discard(task_id)
            asyncio.get_running_loop().run_in_executor(None, self._remove, task_id)

    def remove_calls(self, task_id: str, invocation_ids: Sequence[str]) -> None:
        """These invocations of a task are no more."""
        if task_id in self._tasks and invocation_ids:
            asyncio.get_running_loop().run_in_executor(None, self._remove_calls, task_id, invocation_ids)

    def _remove_calls(self, task_id: str, invocation_ids: Sequence[str]) -> None:
        for invocation_id in invocation_ids:
            shutil.rmtree(self.root / task_id / invocation_id, ignore_errors=True)  # few have one

    def _remove(self, task_id: str) -> None:
        shutil.rmtree(self.root / task_id, onerror=_complain)


def _complain(_function: object, path: str, error: object) -> None:
    log.warning("a file of a deleted task stays", path=path, error=str(error))
