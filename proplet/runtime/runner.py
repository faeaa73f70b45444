"""One attempt, from its start message to its outcome: binary and inputs, a slot, the run, and what came out of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from proplet.policy.current import CurrentPolicy
from proplet.policy.terms import RefusedError, Terms, resolved
from proplet.runtime import results
from proplet.runtime.guest_log import GuestLog
from proplet.runtime.pool import WorkerPool
from proplet.runtime.reports import Reporting
from proplet.runtime.task_folder import TaskFolder, TaskFolders
from proplet.sandbox.frames import Answer, Job
from proplet.supply.assembly import Wanted
from proplet.supply.binaries import Binaries
from proplet.supply.fetch import Fetcher
from proplet.supply.inputs import Inputs, together
from proplet.work.course import Course
from proplet.work.outcome import Failure, Large, Learned, Outcome, Success
from proplet.work.outgoing import Ref
from proplet.work.result_files import ResultFiles
from swashplate import logging
from swashplate.errors import ConfigurationError, InvalidRequestError, SwashplateError, TooLargeError
from swashplate.messages import UPLOAD_TOKEN, Start, Update

log = logging.get("task")

LARGE_UPDATE_BYTES = 1 << 20
"""A larger update is looked through beside the event loop, and not built."""
OF_THIS_MACHINE = {"digest_mismatch", "module_not_stored", "not_compiled", "task_folder"}
"""Codes of what lies in its disk, and not in the task."""


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
        policy: CurrentPolicy,
        coordinator_url: Callable[[], str],
        result_files: ResultFiles,
    ) -> None:
        self._proplet_id = proplet_id
        self._binaries = binaries
        self._fetcher = fetcher
        self._inputs = inputs
        self._pool = pool
        self._folders = folders
        self._policy = policy
        self._coordinator_url = coordinator_url
        self._result_files = result_files
        self.log_bytes_dropped = 0
        """Of the stderr of guests, for it was more than their limit."""

    def check(self, start: Start) -> None:
        """Raises ``RefusedError`` for what the policy does not allow."""
        resolved(start, self._policy.now)

    async def perform(self, start: Start, course: Course) -> Outcome:
        """Never raises for what a task can cause; cancelled, it leaves neither a guest nor a file behind."""
        log.info("Executing task %s in spawned task", start.id, task_id=start.id, attempt=start.attempt)
        course.enter("fetching")
        try:
            with self._folders.lent() as folder, self._binaries.in_use(start.digest):
                return await self._performed(start, folder, course)
        except SwashplateError as error:
            return Failure(error.sentence, error.code, error.retryable)

    @asynccontextmanager
    async def deployed(self, start: Start, course: Course) -> AsyncIterator[None]:
        """Within, the task's binary is here and compiled, so that ``perform`` need do neither.

        Raises ``SwashplateError`` when it cannot be had or cannot run.
        """
        log.info("Deploying task %s", start.id, task_id=start.id, attempt=start.attempt)
        course.enter("fetching")
        terms = resolved(start, self._policy.now)
        with self._binaries.in_use(start.digest):
            with self._folders.lent() as folder:
                job = self._job(start, terms, folder, await self._binary(start), {}, precompile=True)
                answer = await self._run(start, job, course, Reporting(terms, GuestLog(start.id, terms.limits.log)))
            if answer.error:
                raise SwashplateError(answer.error, code=answer.code, retryable=answer.code in OF_THIS_MACHINE)
            yield

    async def _performed(self, start: Start, folder: TaskFolder, course: Course) -> Outcome:
        if start.kind == "federated" and not self._coordinator_url():
            raise ConfigurationError(
                "the task learns, but this proplet knows no coordinator", hint="set COORDINATOR_URL"
            )
        terms = _with_folders(resolved(start, self._policy.now))
        guest_log = GuestLog(start.id, terms.limits.log, course.log)
        reporting = Reporting(terms, guest_log)
        course.report = reporting.report
        if self._binaries.has(start.digest):
            binary, env = await self._binary(start), await self._inputs.gather(start, folder)
        else:
            binary, env = await together(self._binary(start), self._inputs.gather(start, folder))
        job = self._job(start, terms, folder, binary, env)
        answer = await self._run(start, job, course, reporting)
        folder.reusable = answer.reusable and terms.isolation != "fork"
        if answer.error:
            return _failed(answer, guest_log)
        if start.kind == "federated":
            text = folder.stdout(terms.limits.output)
            if len(text) > LARGE_UPDATE_BYTES:
                return await asyncio.to_thread(self._learned, start, text)
            return self._learned(start, text)
        return await self._finished(start, answer, folder, course.ref)

    async def _binary(self, start: Start) -> Path:
        wanted = Wanted(start.digest, start.size, start.image_url)
        return await self._fetcher.fetch(wanted, endless=start.timeout_s is None)

    def _job(
        self,
        start: Start,
        terms: Terms,
        folder: TaskFolder,
        binary: Path,
        env: dict[str, str],
        *,
        precompile: bool = False,
    ) -> Job:
        return Job(
            digest=start.digest,
            binary=str(binary),
            name=start.name,
            folder=str(folder.path),
            inputs=start.inputs,
            cli_args=start.cli_args,
            env=env | terms.env,
            limits=terms.limits,
            precompile=precompile,
            isolation=terms.isolation,
            deterministic=terms.deterministic,
            seed=terms.seed,
            clock=terms.clock,
            random=terms.random,
            directories=terms.directories,
        )

    async def _run(self, start: Start, job: Job, course: Course, reporting: Reporting) -> Answer:
        if self._pool.full:
            course.enter("waiting")
        async with self._pool.slot:
            log.info("Starting Host runtime app: task_id=%s", start.id, task_id=start.id)
            reporting.begins()
            try:
                answer = await self._pool.run(job, reporting.log.feed, course)
                reporting.log.wrote(answer.used.get("log_bytes", 0))
            finally:
                reporting.log.close()
        reporting.ended(answer)
        self.log_bytes_dropped += max(0, int(answer.used.get("log_bytes", 0)) - reporting.log.received)
        if answer.compiled:
            log.info(
                "Compiled the module of %s", start.image_url or start.digest, task_id=start.id, digest=start.digest
            )
        if answer.code == "digest_mismatch":
            self._binaries.drop(start.digest)
        return answer

    async def _finished(self, start: Start, answer: Answer, folder: TaskFolder, ref: Ref) -> Success | Large:
        try:
            return results.small(answer, folder, daemon=start.daemon)
        except TooLargeError:
            if UPLOAD_TOKEN not in start.tokens or start.daemon:
                raise
        writer = self._result_files.writer(ref)
        written = asyncio.get_running_loop().run_in_executor(None, results.large, answer, folder, writer)
        try:
            return await asyncio.shield(written)
        except (Exception, asyncio.CancelledError):
            written.add_done_callback(lambda _: self._result_files.remove(ref))  # a thread cannot be cancelled
            raise

    def _learned(self, start: Start, text: bytes) -> Learned:
        large = len(text) > LARGE_UPDATE_BYTES
        try:
            update = large_update().head(text) if large else Update.decode(text)
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
            if large:
                text = large_update().based_on(model_uri, text)
            else:
                text = update.model_copy(update={"base_model_uri": model_uri}).encode()
        said = {
            "round_id": update.round_id,
            "num_samples": update.num_samples,
            "metrics": update.metrics,
            "update": "accepted",
        }
        results.check_size(said)
        return Learned(text, said)


def large_update() -> ModuleType:
    from swashplate.messages import large_update  # noqa: PLC0415  # what most proplets never need takes memory

    return large_update


def _with_folders(terms: Terms) -> Terms:
    """Raises ``RefusedError`` when a directory that the policy grants is not there now."""
    for folder, path, _ in terms.directories:
        if not Path(folder).is_dir():
            raise RefusedError(f"the directory for {path} is not there", code="directory_unavailable", retryable=True)
    return terms


def _failed(answer: Answer, guest_log: GuestLog) -> Failure:
    said = "; ".join(guest_log.last)
    error = f"{answer.error}: {said}" if said and answer.code == "guest_exit" else answer.error
    return Failure(error, answer.code, answer.code in OF_THIS_MACHINE)
