"""One attempt, from its start message to its outcome: binary and inputs, a slot, the run, and what came out of it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from proplet.binaries import Binaries
from proplet.fetch import Fetcher, Wanted
from proplet.frames import LOGGED_BYTES, Answer, Job
from proplet.inputs import Inputs, together
from proplet.runtime import WorkerPool
from proplet.task_folder import TaskFolder, TaskFolders
from swashplate import logging
from swashplate.errors import ConfigurationError, InvalidRequestError, SwashplateError, TooLargeError
from swashplate.messages import Start, Update

log = logging.get("task")

MAX_RESULT_BYTES = 192 * 1024
LARGE_UPDATE_BYTES = 1 << 20
"""A larger update is parsed beside the event loop."""
LINE_COST = 100
"""Bytes of log that a line counts beside its text: a flood of short lines is a flood too."""
LAST_LINES = 5
LOGGED_CHARACTERS = 500


@dataclass(frozen=True)
class Success:
    results: Any


@dataclass(frozen=True)
class Learned:
    """``update`` is for the coordinator, ``results`` for the manager once the coordinator has it."""

    update: bytes
    results: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    error: str
    code: str
    retryable: bool = False


Outcome = Success | Learned | Failure


def log_outcome(task_id: str, outcome: Outcome) -> None:
    match outcome:
        case Failure(error, code):
            log.error("Task %s failed: %s", task_id, error, task_id=task_id, code=code)
            return
        case Learned(update):
            shown = update[: 4 * LOGGED_CHARACTERS].decode(errors="replace")
        case Success(results):
            shown = results if isinstance(results, str) else json.dumps(results)
    log.info("Task %s completed successfully. Result: %s", task_id, shown[:LOGGED_CHARACTERS], task_id=task_id)


class GuestLog:
    """A guest's stderr, line by line in the proplet's log, and its last lines for an error message."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._partial = b""
        self._room = LOGGED_BYTES
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, content: bytes) -> None:
        *lines, self._partial = (self._partial + content).split(b"\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        self._line(self._partial)
        self._partial = b""

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if not text or self._room < 0:
            return
        self._room -= len(line) + LINE_COST
        if self._room < 0:
            log.warning("stderr of the task was cut", task_id=self._task_id, limit=LOGGED_BYTES)
            return
        self.last.append(text[:LOGGED_CHARACTERS])
        log.info(text, task_id=self._task_id, stream="stderr")


@dataclass(frozen=True)
class Limits:
    """Bytes, and of ``files`` how many."""

    memory: int
    output: int
    files: int


class Runner:
    """Performs attempts; many at a time, of which the pool runs as many guests as it has slots."""

    def __init__(
        self,
        proplet_id: str,
        binaries: Binaries,
        fetcher: Fetcher,
        inputs: Inputs,
        pool: WorkerPool,
        folders: TaskFolders,
        limits: Limits,
        coordinator_url: Callable[[], str],
    ) -> None:
        self._proplet_id = proplet_id
        self._binaries = binaries
        self._fetcher = fetcher
        self._inputs = inputs
        self._pool = pool
        self._folders = folders
        self._limits = limits
        self._coordinator_url = coordinator_url

    async def perform(self, start: Start) -> Outcome:
        """Never raises for what a task can cause; cancelled, it leaves neither a guest nor a file behind."""
        log.info("Executing task %s in spawned task", start.id, task_id=start.id, attempt=start.attempt)
        try:
            folder = self._folders.fresh()
            try:
                with self._binaries.in_use(start.digest):
                    return await self._performed(start, folder)
            finally:
                asyncio.get_running_loop().run_in_executor(None, folder.remove).add_done_callback(_log_failure)
        except SwashplateError as error:
            return Failure(error.sentence, error.code, error.retryable)

    async def _performed(self, start: Start, folder: TaskFolder) -> Outcome:
        if start.kind == "federated" and not self._coordinator_url():
            raise ConfigurationError(
                "the task learns, but this proplet knows no coordinator", hint="set COORDINATOR_URL"
            )
        wanted = Wanted(start.digest, start.size, start.image_url)
        binary, env = await together(self._fetcher.fetch(wanted), self._inputs.gather(start, folder))
        job = Job(
            digest=start.digest,
            binary=str(binary),
            name=start.name,
            folder=str(folder.path),
            inputs=start.inputs,
            cli_args=start.cli_args,
            env=env,
            memory_limit=self._limits.memory,
            output_limit=self._limits.output,
            file_limit=self._limits.files,
        )
        guest_log = GuestLog(start.id)
        async with self._pool.slot():
            log.info("Starting Host runtime app: task_id=%s", start.id, task_id=start.id)
            try:
                answer = await self._pool.run(job, guest_log.feed)
            finally:
                guest_log.close()
        if answer.compiled:
            log.info(
                "Compiled the module of %s", start.image_url or start.digest, task_id=start.id, digest=start.digest
            )
        if answer.error:
            if answer.code == "digest_mismatch":
                self._binaries.drop(start.digest)
            return _failed(answer, guest_log)
        if start.kind == "federated":
            text = folder.stdout(self._limits.output)
            if len(text) > LARGE_UPDATE_BYTES:
                return await asyncio.to_thread(self._learned, start, text)
            return self._learned(start, text)
        return self._finished(answer, folder)

    def _finished(self, answer: Answer, folder: TaskFolder) -> Success:
        """``/out/result.json`` when there is one, else what the function returned, else stdout as it is."""
        written = folder.result_file(MAX_RESULT_BYTES)
        results: Any
        if written is not None:
            try:
                results = from_json(written, allow_inf_nan=False)
            except ValueError as error:
                raise InvalidRequestError(f"/out/result.json is not JSON: {error}", code="result_invalid") from error
        elif answer.text is not None:
            results = answer.text
        else:
            results = folder.stdout(MAX_RESULT_BYTES).decode(errors="replace")
        _refuse_too_large(results)
        return Success(results)

    def _learned(self, start: Start, text: bytes) -> Learned:
        try:
            update = Update.decode(text)
        except SwashplateError as error:
            raise InvalidRequestError(f"stdout is no update: {error.sentence}", code="update_invalid") from error
        round_id = start.env.get("ROUND_ID", "")
        if update.round_id != round_id or update.proplet_id != self._proplet_id:
            raise InvalidRequestError(
                f"the update is for round {update.round_id} and proplet {update.proplet_id},"
                f" the task for round {round_id} and proplet {self._proplet_id}",
                code="update_mismatch",
            )
        model_uri = start.env.get("MODEL_URI", "")
        if model_uri and not update.base_model_uri:
            text = update.model_copy(update={"base_model_uri": model_uri}).encode()
        results = {
            "round_id": update.round_id,
            "num_samples": update.num_samples,
            "metrics": update.metrics,
            "update": "accepted",
        }
        _refuse_too_large(results)
        return Learned(text, results)


def _log_failure(removal: asyncio.Future[None]) -> None:
    if not removal.cancelled() and (error := removal.exception()) is not None:
        log.error("the folder of a task was not removed", error=repr(error))


def _refuse_too_large(results: Any) -> None:
    if len(to_json(results)) > MAX_RESULT_BYTES:
        raise TooLargeError(f"the result is over the limit of {MAX_RESULT_BYTES} bytes", code="result_too_large")


def _failed(answer: Answer, guest_log: GuestLog) -> Failure:
    said = "; ".join(guest_log.last)
    error = f"{answer.error}: {said}" if said and answer.code == "guest_exit" else answer.error
    return Failure(error, answer.code, answer.code == "digest_mismatch")
