"""The proplet as a Propeller manager knows it: tasks that come on the topics that all proplets share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from proplet.legacy import answers, starts
from proplet.legacy.delivery import Delivery
from proplet.legacy.deployments import LegacyDeployments
from proplet.legacy.fetch import LegacyFetcher
from proplet.legacy.presence import Presence
from proplet.legacy.results import Shelf
from proplet.monitoring.counters import Counters
from proplet.runtime.runner import Runner
from proplet.settings import PropletSettings
from proplet.site import Site
from proplet.supply.binaries import Binaries
from proplet.work.course import Course
from proplet.work.outcome import Failure, Outcome, log_outcome
from proplet.work.outgoing import Ref
from swashplate import logging
from swashplate.bus import Bus, Received
from swashplate.client import HttpClient
from swashplate.errors import InvalidRequestError, SwashplateError, TooLargeError, UnavailableError
from swashplate.messages import Start
from swashplate.messages.legacy import (
    LegacyInvoke,
    LegacyStart,
    LegacyStop,
)
from swashplate.messages.tasks import WASM_MAGIC
from swashplate.service import Tasks
from swashplate.topics import Topics
from swashplate.words import counted

log = logging.get("legacy")


class LegacyAgent:
    def __init__(
        self,
        settings: PropletSettings,
        bus: Bus,
        topics: Topics,
        site: Site,
        shelf: Shelf,
        fetcher: LegacyFetcher,
        binaries: Binaries,
        runner: Runner,
        http: HttpClient,
        counters: Counters,
    ) -> None:
        self._id = settings.client_id
        self._most = settings.slots + settings.queue
        self._shelf = shelf
        self._fetcher = fetcher
        self._binaries = binaries
        self._runner = runner
        self._counters = counters
        self._active: dict[str, asyncio.Task[Any]] = {}
        """By task id: running, or with a result that the broker does not have yet."""
        hears = {"start": self._started, "stop": self._stop, "invoke": self._invoked}
        self.presence = Presence(settings, bus, topics, hears)
        self._delivery = Delivery(self.presence, site, shelf, http)
        self._deployments = LegacyDeployments(self._id, settings.slots, runner, self.presence.say)
        self._work = Tasks(log)
        self._starts: dict[Ref, Start] = {}
        """What runs now was started with."""
        self.on_stage: Callable[[Course], None] = lambda _course: None
        """Called when a task enters another stage, and with the stage empty when it has ended."""
        self.on_outcome: Callable[[Course], None] = lambda _course: None
        """Called when a task has an outcome, before anybody is told."""

    def start_of(self, ref: Ref) -> Start | None:
        """None when it has ended, or was not started on the shared topics."""
        return self._starts.get(ref)

    @property
    def running(self) -> int:
        """How many tasks run here or have a result that the broker does not have yet."""
        return len(self._active)

    async def open(self) -> None:
        """Take up what an earlier life left; call before the bus connects."""
        for kept in await self._shelf.left():
            self._begin(kept.task_id, self._delivery.deliver(kept))
        self.presence.open()

    async def close(self) -> None:
        await self.presence.close()
        await self._work.close()
        self._shelf.close()

    # What the manager wants.

    async def _started(self, message: Received) -> None:
        try:
            start = LegacyStart.decode(message.payload)
        except InvalidRequestError as error:
            self._refuse_invalid(message.payload, error)
            return
        if not start.is_for(self._id):
            return
        busy = len(self._active) - len(self._deployments)
        if start.id in self._active:
            log.warning("start ignored: the task is running already", task_id=start.id)
        elif busy >= self._most:
            self._begin(start.id, self._refuse(start, f"{counted(busy, 'task')} here already, running or waiting"))
        elif start.latent:
            self._begin(start.id, self._deploy(start))
        else:
            self._begin(start.id, self._pursue(start))

    async def _stop(self, message: Received) -> None:
        """Nobody is told: the old protocol has no answer to a stop."""
        task_id = LegacyStop.decode(message.payload).id
        running = self._active.get(task_id)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
            await self._shelf.forget(task_id)
            log.info("task stopped", task_id=task_id)

    async def _invoked(self, message: Received) -> None:
        invoke = LegacyInvoke.decode(message.payload)
        if invoke.broadcast or invoke.proplet_id == self._id:
            self._work.start(self._deployments.called(invoke), f"invocation {invoke.invocation_id}")

    def _refuse_invalid(self, payload: bytes, error: InvalidRequestError) -> None:
        log.error("start refused", error=error.sentence)
        said = None
        with contextlib.suppress(ValueError):
            said = from_json(payload)
        if not isinstance(said, dict) or not isinstance(said.get("id"), str) or not said["id"]:
            return
        if said["id"] not in self._active and (said.get("broadcast") is True or said.get("proplet_id") == self._id):
            self._begin(said["id"], self._refuse(LegacyStart(id=said["id"], name="invalid"), error.sentence))

    def _begin(self, task_id: str, work: Any) -> None:
        running = self._active[task_id] = self._work.start(work, f"legacy task {task_id}")
        running.add_done_callback(lambda _: self._active.pop(task_id, None))

    async def _refuse(self, start: LegacyStart, reason: str) -> None:
        await self._delivery.deliver(answers.failed(start, self._id, reason))

    # One task.

    async def _pursue(self, start: LegacyStart) -> None:
        self._counters.started += 1
        try:
            await self._shelf.keep(answers.failed(start, self._id, "the proplet restarted while the task was running"))
            outcome = await self._outcome(start)
        except SwashplateError as error:
            outcome = Failure(error.sentence, error.code)
        except Exception:
            log.exception("task failed unexpectedly", task_id=start.id)
            outcome = Failure("internal error of the proplet; its log has the details", "internal")
        log_outcome(start.id, outcome)
        self._counters.ended(outcome.code if isinstance(outcome, Failure) else "")
        kept = answers.of(start, self._id, outcome)
        try:
            await self._shelf.keep(kept)
        except UnavailableError as error:
            log.error("result not kept: it is lost when the proplet ends now", task_id=start.id, error=error.sentence)
        await self._delivery.deliver(kept)

    async def _outcome(self, start: LegacyStart) -> Outcome:
        if start.encrypted:
            return Failure("TEE runtime not available", "encrypted_unsupported")
        digest = await self._binary(start)
        with self._binaries.in_use(digest):
            self._binaries.make_room()
            course = Course(Ref(start.id, 1), self.on_stage)
            self._starts[course.ref] = ours = self._ours(start, digest)
            try:
                return await self._runner.perform(ours, course)
            finally:
                self.on_outcome(course)
                del self._starts[course.ref]
                course.enter("")

    async def _deploy(self, start: LegacyStart) -> None:
        """Nobody is told when it is ready, only when it cannot be: the old protocol has no word for the first."""
        try:
            if start.encrypted:
                raise InvalidRequestError("TEE runtime not available", code="encrypted_unsupported")
            digest = await self._binary(start)
            with self._binaries.in_use(digest):
                self._binaries.make_room()
                await self._deployments.serve(self._ours(start, digest))
        except SwashplateError as error:
            log_outcome(start.id, Failure(error.sentence, error.code))
            await self._refuse(start, error.sentence)

    def _ours(self, start: LegacyStart, digest: str) -> Start:
        """Raises ``InvalidRequestError``."""
        return starts.ours(start, self._id, digest=digest, size=self._binaries.store.size(digest))

    async def _binary(self, start: LegacyStart) -> str:
        """Its digest, computed here: nobody has told one."""
        if start.file:
            content = start.file_bytes()
            if len(content) > self._binaries.limit:
                raise TooLargeError(f"the file has {len(content)} bytes", code="binary_too_large")
            if not content.startswith(WASM_MAGIC):
                raise InvalidRequestError("the file is not a WebAssembly binary", code="not_wasm")
            digest = await asyncio.to_thread(self._binaries.store.put, content)
            log.info("binary came with the start", task_id=start.id, digest=digest, size=len(content))
            return digest
        if not start.image_url:
            raise InvalidRequestError("the start has neither a file nor an image_url")
        if start.image_url.startswith(("http://", "https://")):
            raise InvalidRequestError(
                f"{start.image_url} is not fetched: binaries come from a registry, through its proxy",
                code="image_unsupported",
            )
        return await self._fetcher.fetch(start.image_url)
