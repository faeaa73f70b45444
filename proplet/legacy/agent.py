"""The proplet as a Propeller manager knows it: on the topics that all proplets share, as long as nobody announces our own.

A manager of ours announces itself, retained; where none has within ``SILENCE_S`` of connecting, this room registers on the
shared topics too. An announcement ends that for the life of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from proplet.capabilities import described
from proplet.legacy.deployments import LegacyDeployments
from proplet.legacy.fetch import MAGIC, LegacyFetcher
from proplet.legacy.results import Kept, Shelf
from proplet.monitoring.counters import Counters
from proplet.runtime.runner import Runner
from proplet.settings import PropletSettings
from proplet.site import Site
from proplet.supply.binaries import Binaries
from proplet.work.course import Course
from proplet.work.outcome import Failure, Large, Learned, Outcome, Success, log_outcome
from proplet.work.outgoing import Ref
from proplet.work.starts import checked
from swashplate import logging
from swashplate.bus import Bus, BusError, PayloadTooLargeError, Received
from swashplate.client import HttpClient
from swashplate.errors import InvalidRequestError, SwashplateError, TooLargeError, UnavailableError
from swashplate.messages import MonitoringProfile, Start
from swashplate.messages.legacy import (
    LegacyAlive,
    LegacyCreate,
    LegacyInvoke,
    LegacyLearned,
    LegacyResult,
    LegacyStart,
    LegacyStop,
)
from swashplate.service import Tasks
from swashplate.topics import SHARED_QOS, Topics
from swashplate.words import counted

log = logging.get("legacy")

SILENCE_S = 2.0
POST_FOR_S, POST_AGAIN_S, POST_AGAIN_MOST_S = 60.0, 0.5, 5.0
BROKER_WITHIN_S = 7 * 86400.0
"""A result waits for the broker as long as it takes; given to the bus again, it might arrive twice."""
NO_LIMIT_S = 365 * 86400.0
"""The old protocol knows no deadline."""


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
        self._settings = settings
        self._id = settings.client_id
        self._bus = bus
        self._topics = topics
        self._site = site
        self._shelf = shelf
        self._fetcher = fetcher
        self._binaries = binaries
        self._runner = runner
        self._http = http
        self._counters = counters
        self._active: dict[str, asyncio.Task[Any]] = {}
        """By task id: running, or with a result that the broker does not have yet."""
        self._deployments = LegacyDeployments(self._id, settings.slots, runner, self._say)
        self._work = Tasks(log)
        self._waiting: asyncio.Task[None] | None = None
        self._heartbeats: asyncio.Task[None] | None = None
        self._retired = False
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

    @property
    def speaking(self) -> bool:
        """Does this proplet serve a manager that knows the shared topics alone?"""
        return self._heartbeats is not None and not self._retired

    async def open(self) -> None:
        """Take up what an earlier life left; call before the bus connects."""
        for kept in await self._shelf.left():
            self._begin(kept.task_id, self._deliver(kept))
        self._bus.on_connect(self._connected)

    async def close(self) -> None:
        await self._work.close()
        self._shelf.close()

    # Whether to speak at all.

    async def retire(self) -> None:
        """A manager has announced itself: no new task comes this way any more; those that run are still answered for."""
        if self._retired:
            return
        self._retired = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._heartbeats is not None:
            log.info("a manager has announced itself: leaving the shared topics")
            self._heartbeats.cancel()
            await self._unsubscribe()

    async def _connected(self) -> None:
        if self._retired:
            return
        if self.speaking:
            await self._register()
        elif self._waiting is None or self._waiting.done():
            self._waiting = self._work.start(self._wait(), "wait for an announcement")

    async def _wait(self) -> None:
        await asyncio.sleep(SILENCE_S)
        if not self._bus.connected:
            return  # the next connection waits anew
        try:
            await self._bus.subscribe(self._topics.shared_to_proplets("start"), self._started, qos=SHARED_QOS)
            await self._bus.subscribe(self._topics.shared_to_proplets("stop"), self._stop, qos=SHARED_QOS)
            await self._bus.subscribe(self._topics.shared_to_proplets("invoke"), self._invoked, qos=SHARED_QOS)
            await self._register()
        except BusError as error:
            log.info("nobody has announced itself, and the shared topics are not granted", reason=error.sentence)
            await self._unsubscribe()
            return
        except asyncio.CancelledError:
            await self._unsubscribe()
            raise
        log.info("no manager has announced itself: on the shared topics as well", within_s=SILENCE_S)
        self._heartbeats = self._work.start(self._beat(), "heartbeats on the shared topic")

    async def _unsubscribe(self) -> None:
        for kind in ("start", "stop", "invoke"):
            await self._bus.unsubscribe(self._topics.shared_to_proplets(kind))

    async def _register(self) -> None:
        said = described(self._settings.name)
        create = LegacyCreate(proplet_id=self._id, namespace=self._settings.namespace, metadata=said)
        await self._say("create", create.encode(), timeout=10)

    async def _beat(self) -> None:
        alive = LegacyAlive(proplet_id=self._id, status="alive", namespace=self._settings.namespace).encode()
        while True:
            if self._bus.connected:
                with contextlib.suppress(BusError):
                    await self._say("alive", alive, timeout=self._settings.heartbeat)
            await asyncio.sleep(self._settings.heartbeat)

    async def _say(self, kind: str, payload: bytes, *, timeout: float) -> None:
        await self._bus.publish(self._topics.shared_from_proplets(kind), payload, qos=SHARED_QOS, timeout=timeout)

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
        elif busy >= self._settings.slots + self._settings.queue:
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
        await self._deliver(Kept(start.id, self._failed(start, reason)))

    # One task.

    async def _pursue(self, start: LegacyStart) -> None:
        self._counters.started += 1
        lost = self._failed(start, "the proplet restarted while the task was running")
        try:
            await self._shelf.keep(Kept(start.id, lost))
            outcome = await self._outcome(start)
        except SwashplateError as error:
            outcome = Failure(error.sentence, error.code)
        except Exception:
            log.exception("task failed unexpectedly", task_id=start.id)
            outcome = Failure("internal error of the proplet; its log has the details", "internal")
        log_outcome(start.id, outcome)
        self._counters.ended(outcome.code if isinstance(outcome, Failure) else "")
        kept = self._kept(start, outcome)
        try:
            await self._shelf.keep(kept)
        except UnavailableError as error:
            log.error("result not kept: it is lost when the proplet ends now", task_id=start.id, error=error.sentence)
        await self._deliver(kept)

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
            await self._deliver(Kept(start.id, self._failed(start, error.sentence)))

    def _ours(self, start: LegacyStart, digest: str) -> Start:
        """Raises ``InvalidRequestError``."""
        return checked(
            Start(
                id=start.id,
                attempt=1,
                proplet_id=self._id,
                name=start.name,
                kind="federated" if start.round_id else "standard",
                image_url=start.image_url,
                digest=digest,
                size=self._binaries.store.size(digest),
                inputs=start.inputs,
                cli_args=start.cli_args,
                env=start.env,
                timeout_s=None if start.latent or start.daemon else NO_LIMIT_S,
                daemon=start.daemon,
                latent=start.latent,
                parents=start.parent_results,
                monitoring_profile=_profile(start),
            )
        )

    async def _binary(self, start: LegacyStart) -> str:
        """Its digest, computed here: nobody has told one."""
        if start.file:
            content = start.file_bytes()
            if len(content) > self._binaries.limit:
                raise TooLargeError(f"the file has {len(content)} bytes", code="binary_too_large")
            if not content.startswith(MAGIC):
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

    def _kept(self, start: LegacyStart, outcome: Outcome) -> Kept:
        match outcome:
            case Success(results):
                text = results if isinstance(results, str) else json.dumps(results)
                return Kept(start.id, LegacyResult(task_id=start.id, proplet_id=self._id, results=text).encode())
            case Large():  # there is nobody to upload it to: the start had no token for that
                raise AssertionError("a large result")
            case Learned(update, results):
                learned = self._learned(start, update, results)
                return Kept(start.id, LegacyResult(task_id=start.id, results=learned).encode(), update)
            case Failure(error):
                return Kept(start.id, self._failed(start, error))

    def _learned(self, start: LegacyStart, update: bytes, results: dict[str, Any]) -> dict[str, Any]:
        said = LegacyLearned.of(
            update,
            task_id=start.id,
            round_id=start.round_id,
            proplet_id=self._id,
            num_samples=results.get("num_samples", 1),
            format=start.env.get("FL_FORMAT") or "f32-delta",
            metrics=results.get("metrics", {}),
        )
        return said.model_dump()

    def _failed(self, start: LegacyStart, error: str) -> bytes:
        if start.round_id:
            return LegacyResult(task_id=start.id, results=self._learned(start, b"", {}), error=error).encode()
        return LegacyResult(task_id=start.id, proplet_id=self._id, results="", error=error).encode()

    # What became of it.

    async def _deliver(self, kept: Kept) -> None:
        payload = kept.payload if kept.update is None else await self._post(kept, kept.update)
        try:
            await self._say("results", payload, timeout=BROKER_WITHIN_S)
        except PayloadTooLargeError as error:
            log.error("result refused by the bus", task_id=kept.task_id, error=error.sentence)
            await self._say("results", self._instead(kept, f"result: {error.sentence}"), timeout=BROKER_WITHIN_S)
        await self._shelf.forget(kept.task_id)

    async def _post(self, kept: Kept, update: bytes) -> bytes:
        """Bring the update to the coordinator; the result to publish after its answer. When it does not answer, the result
        has the update in it for whoever reads results.
        """
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + POST_FOR_S, POST_AGAIN_S
        while True:
            url = f"{self._site.coordinator_url()}/update"
            try:
                await self._http.request("POST", url, body=update)
            except UnavailableError as error:
                log.warning("coordinator unreachable", url=url, error=error.sentence)
                if loop.time() + delay > deadline:
                    return kept.payload
            except SwashplateError as error:
                log.error("update refused", task_id=kept.task_id, url=url, error=error.sentence, code=error.code)
                return self._instead(kept, f"update refused: {error.sentence}")
            else:
                log.info("Successfully posted FL update to coordinator via HTTP: %s", url, task_id=kept.task_id)
                return kept.payload
            await asyncio.sleep(delay)
            delay = min(delay * 2, POST_AGAIN_MOST_S)

    def _instead(self, kept: Kept, error: str) -> bytes:
        """The same result, failed and without its content."""
        said = LegacyResult.decode(kept.payload)
        results = {**said.results, "update_b64": ""} if isinstance(said.results, dict) else ""
        return said.model_copy(update={"results": results, "error": error}).encode()


def _profile(start: LegacyStart) -> MonitoringProfile | None:
    """None for one that cannot be understood: a task runs without it too."""
    known = start.monitoring_profile
    if not known:
        return None
    try:
        return MonitoringProfile.decode(
            json.dumps({**known, "interval": int(known.get("interval", 10) * 1e9)}).encode()
        )
    except (InvalidRequestError, TypeError, ValueError, OverflowError) as error:
        log.warning("monitoring profile ignored", task_id=start.id, error=str(error))
        return None
