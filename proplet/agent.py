"""The agent: takes the manager's starts and stops, answers for each attempt, and reports that it lives.

It runs no guest code and loads no WebAssembly runtime; both happen in its worker processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from structlog.contextvars import bound_contextvars

from proplet.attempt import Failure, Learned, Outcome, Runner, Success, log_outcome
from proplet.capabilities import capabilities, described
from proplet.counters import Counters
from proplet.journal import Journal, PendingUpdate, Ref
from proplet.outbox import Outbox, result_message
from proplet.settings import PropletSettings
from proplet.site import Site
from proplet.states import AttemptState
from swashplate import logging
from swashplate.bus import Bus, BusError, Received, Will
from swashplate.errors import InvalidRequestError, SwashplateError
from swashplate.messages import Ack, Alive, Announce, AttemptRef, PropletCreate, Start, Stop
from swashplate.messages.control import PROTOCOL
from swashplate.service import Tasks
from swashplate.topics import Topics

log = logging.get("agent")

REPORT_GAP_S = 0.1
"""Reports that follow changes of the running set are at least this far apart."""
GOODBYE_S = 0.5


async def _nothing() -> None:
    return None


@dataclass
class Active:
    """An attempt that has no outcome yet. ``deadline`` is the loop's time, None for an attempt that only a stop ends."""

    start: Start
    deadline: float | None
    work: asyncio.Task[Any] | None = None
    begun: bool = False
    stopped: Failure | None = None
    recording: bool = False


def offline_will(topics: Topics, proplet_id: str, instance: str) -> Will:
    """What the broker says when this life of the proplet ends without a goodbye."""
    gone = Alive(proplet_id=proplet_id, instance=instance, status="offline")
    return Will(topics.proplet(proplet_id, "alive"), gone.encode())


class Agent:
    def __init__(
        self,
        settings: PropletSettings,
        bus: Bus,
        topics: Topics,
        instance: str,
        site: Site,
        journal: Journal,
        outbox: Outbox,
        runner: Runner,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._id = settings.client_id
        self._labels = settings.label_map()
        self._bus = bus
        self._topics = topics
        self._instance = instance
        self._site = site
        self._journal = journal
        self._outbox = outbox
        self._runner = runner
        self._counters = counters
        self._heartbeat_s = settings.heartbeat
        self._active: dict[Ref, Active] = {}
        self._changed = asyncio.Event()
        self._background = Tasks(log)
        self._closing = False
        self._first_connect = asyncio.Event()
        self.on_announce: Callable[[], Awaitable[None]] = _nothing
        """Called when a manager that speaks our protocol announces itself."""

    @property
    def running(self) -> int:
        """How many attempts have no outcome yet."""
        return len(self._active)

    async def open(self) -> None:
        """Report what an earlier life left behind and declare the subscriptions; call before the bus connects."""
        for ref in self._journal.in_state(AttemptState.ACCEPTED):
            lost = "the proplet restarted while the task was running"
            log_outcome(ref.task_id, Failure(lost, "proplet_restarted", retryable=True))
            result = result_message(ref, self._id, error=lost, code="proplet_restarted", retryable=True)
            await self._journal.finish(result)
        self._bus.on_connect(self._connected)
        expecting = self._site.expect_manager(self._first_connect, self._topics.announce)
        self._background.start(expecting, "expect the manager")
        self._outbox.on_settled = lambda _ref: self._changed.set()
        await self._bus.subscribe(self._topics.announce, self._announced)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "start"), self._started)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "stop"), self._stop)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "ack"), self._acknowledged)
        await self._outbox.open()
        self._background.start(self._report(), "report")

    async def close(self) -> None:
        """Say goodbye and kill what runs. The journal keeps the attempts: the next life reports them."""
        self._closing = True
        will = offline_will(self._topics, self._id, self._instance)
        if self._bus.connected:
            with contextlib.suppress(BusError):
                await self._bus.publish(will.topic, will.payload, timeout=GOODBYE_S)
        await self._background.close()
        await self._outbox.close()

    # The manager's messages.

    async def _announced(self, message: Received) -> None:
        announce = Announce.decode(message.payload)
        if announce.protocol != PROTOCOL:
            log.warning("the manager speaks another protocol", protocol=announce.protocol, ours=PROTOCOL)
        await self.on_announce()
        self._heartbeat_s = announce.heartbeat_s
        self._site.hear(announce.urls)
        if message.retain:
            self._changed.set()
        else:
            await self._say_hello()  # the manager is new: it may not have heard of us

    async def _started(self, message: Received) -> None:
        if self._closing:
            return
        try:
            start = checked(Start.decode(message.payload))
        except InvalidRequestError as error:
            await self._refuse_invalid(message.payload, error)
            return
        if start.proplet_id != self._id:
            log.warning("start for another proplet ignored", task_id=start.id, proplet_id=start.proplet_id)
            return
        ref = Ref(start.id, start.attempt)
        if ref in self._active or self._journal.state(ref) is not None:
            log.info("start came again", task_id=start.id, attempt=start.attempt)
            await self._outbox.send_again(ref)
            return
        if len(self._active) >= self._settings.slots + self._settings.queue:
            await self._outbox.deny(ref, "no_slot", f"{len(self._active)} tasks run or wait already")
            return
        for other, active in self._active.items():
            if other.task_id == ref.task_id and other.attempt < ref.attempt:
                self._end(active, Failure("another attempt has started", "superseded"))
        active = Active(start, None if start.timeout_s is None else asyncio.get_running_loop().time() + start.timeout_s)
        self._active[ref] = active
        self._changed.set()
        active.work = self._background.start(self._pursue(ref, active), f"attempt {ref.attempt} of {ref.task_id}")

    async def _refuse_invalid(self, payload: bytes, error: InvalidRequestError) -> None:
        log.error("start refused", error=error.sentence)
        try:
            said = from_json(payload)
            ref, addressed = Ref(said["id"], said["attempt"]), said.get("proplet_id", self._id)
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        known = isinstance(ref.task_id, str) and type(ref.attempt) is int
        if known and addressed == self._id and ref not in self._active and self._journal.state(ref) is None:
            await self._outbox.deny(ref, "invalid_start", error.sentence)

    async def _stop(self, message: Received) -> None:
        stop = Stop.decode(message.payload)
        if stop.proplet_id != self._id:
            return
        stopped = Failure("stopped", "stopped")
        for ref, active in list(self._active.items()):
            if ref.task_id == stop.id:
                self._end(active, stopped)
        for ref in self._journal.in_state(AttemptState.DELIVERING):
            result = result_message(ref, self._id, error=stopped.error, code=stopped.code)
            if ref.task_id == stop.id and self._outbox.give_up_update(result):
                log_outcome(ref.task_id, stopped)

    @staticmethod
    def _end(active: Active, reason: Failure) -> None:
        if active.recording or active.stopped is not None:
            return
        active.stopped = reason
        if active.begun and active.work is not None:  # cancelled before its first step, it could report nothing
            active.work.cancel()

    async def _acknowledged(self, message: Received) -> None:
        self._outbox.acknowledged(Ack.decode(message.payload).ids)

    # One attempt.

    async def _pursue(self, ref: Ref, active: Active) -> None:
        active.begun = True
        round_id = active.start.env.get("ROUND_ID")
        with bound_contextvars(**({"round_id": round_id} if round_id else {})):
            # The work begins while the acceptance is written: what nobody was told yet may be lost.
            writing = [asyncio.ensure_future(self._outbox.accepted(ref))]
            try:
                outcome = await self._outcome(active)
                active.recording = True
                log_outcome(ref.task_id, outcome)
                writing.append(asyncio.ensure_future(self._record(ref, active.start, outcome)))
                await asyncio.gather(*writing)
                self._counters.ended(failed=isinstance(outcome, Failure))
            except SwashplateError as error:
                log.error("attempt could not be recorded", task_id=ref.task_id, error=error.sentence)
            finally:
                for write in writing:
                    write.cancel()
                self._active.pop(ref, None)
                self._changed.set()

    async def _outcome(self, active: Active) -> Outcome:
        """Performs until the end, the deadline, or a stop."""
        self._counters.started += 1
        if active.stopped is not None:
            return active.stopped
        try:
            async with asyncio.timeout_at(active.deadline):
                return await self._performed(active.start)
        except TimeoutError:
            return Failure(f"timed out after {active.start.timeout_s:g} s", "timeout")
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if active.stopped is None or this is None or self._closing:
                raise
            this.uncancel()
            return active.stopped

    async def _performed(self, start: Start) -> Outcome:
        """A fault of our own is an outcome too: the manager must not wait for a lease to end."""
        try:
            return await self._runner.perform(start)
        except Exception:
            log.exception("attempt failed unexpectedly", task_id=start.id)
            return Failure("internal error of the proplet; its log has the details", "internal", retryable=True)

    async def _record(self, ref: Ref, start: Start, outcome: Outcome) -> None:
        match outcome:
            case Success(results):
                await self._outbox.finish(result_message(ref, self._id, results=results))
            case Learned(update, results):
                success = result_message(ref, self._id, results=results).payload
                await self._outbox.deliver(PendingUpdate(ref, update, start.tokens.get("update", ""), success))
            case Failure(error, code, retryable):
                await self._outbox.finish(result_message(ref, self._id, error=error, code=code, retryable=retryable))

    # What the manager is told about this proplet.

    async def _connected(self) -> None:
        self._counters.connects += 1
        self._first_connect.set()
        await self._say_hello()

    async def _say_hello(self) -> None:
        await self._create()
        self._changed.set()
        self._background.start(self._learn_datasets(), "list datasets")

    async def _create(self) -> None:
        create = PropletCreate(
            proplet_id=self._id,
            instance=self._instance,
            namespace=self._settings.namespace,
            metadata=described(),
            capabilities=capabilities(
                slots=self._settings.slots,
                labels=self._labels,
                datasets=self._site.datasets,
                digests=self._site.digests(),
            ),
        )
        await self._bus.publish(self._topics.proplet(self._id, "create"), create.encode(), timeout=10)

    async def _learn_datasets(self) -> None:
        if await self._site.learn_datasets() and self._bus.connected:
            await self._create()

    async def _report(self) -> None:
        """At once when something changed, and then every heartbeat."""
        last = 0.0
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(max(0.0, last + REPORT_GAP_S - time.monotonic()))
            self._changed.clear()
            last = time.monotonic()
            if self._bus.connected and not self._closing:
                with contextlib.suppress(BusError):
                    await self._bus.publish(self._topics.proplet(self._id, "alive"), self._alive().encode(), qos=0)

    def _alive(self) -> Alive:
        held = {*self._active, *self._outbox.awaited()}
        return Alive(
            proplet_id=self._id,
            instance=self._instance,
            status="alive",
            namespace=self._settings.namespace,
            running=[AttemptRef(task_id=ref.task_id, attempt=ref.attempt) for ref in sorted(held)],
            free_slots=max(0, self._settings.slots - len(self._active)),
        )


def new_instance() -> str:
    return uuid.uuid4().hex


def checked(start: Start) -> Start:
    """Raises ``InvalidRequestError`` for text that cannot become arguments or environment of a guest."""
    if not start.id or not start.name:
        raise InvalidRequestError("Start: id and name must not be empty")
    for text in (start.name, *start.inputs, *start.cli_args, *start.env.values()):
        if "\0" in text:
            raise InvalidRequestError("Start: name, inputs, cli_args and env must not contain NUL")
    for key in start.env:
        if not key or "=" in key or "\0" in key:
            raise InvalidRequestError(f"Start: {key!r} is not a usable environment entry")
    return start
