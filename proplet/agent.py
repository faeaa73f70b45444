"""The agent: hears what the manager wants, and reports that it lives and what it does.

It runs no guest code and loads no WebAssembly runtime; both happen in its worker processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable

from pydantic_core import from_json

from proplet.capabilities import capabilities, described
from proplet.monitoring.counters import Counters
from proplet.policy.current import CurrentPolicy
from proplet.settings import PropletSettings
from proplet.site import Site
from proplet.work.attempts import Attempts
from proplet.work.deliveries import Deliveries
from proplet.work.outbox import Outbox
from proplet.work.outgoing import Ref
from proplet.work.starts import checked, checked_invoke
from proplet.work.uploads import Uploads
from swashplate import logging
from swashplate.bus import Bus, BusError, Received, Will
from swashplate.errors import InvalidRequestError
from swashplate.messages import Ack, Alive, Announce, AttemptRef, Invoke, PropletCreate, Start, Stop
from swashplate.messages.control import PROTOCOL
from swashplate.service import Tasks
from swashplate.topics import Topics

log = logging.get("agent")

REPORT_GAP_S = 0.5
"""Reports that follow changes of the running set are at least this far apart."""
GOODBYE_S = 0.5


async def _nothing() -> None:
    return None


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
        policy: CurrentPolicy,
        attempts: Attempts,
        outbox: Outbox,
        deliveries: Deliveries,
        uploads: Uploads,
        counters: Counters,
        confinement: list[str],
    ) -> None:
        self._settings = settings
        self._id = settings.client_id
        self._labels = settings.label_map()
        self._bus = bus
        self._topics = topics
        self._instance = instance
        self._site = site
        self._policy = policy
        self._attempts = attempts
        self._outbox = outbox
        self._deliveries = deliveries
        self._uploads = uploads
        self._counters = counters
        self._confinement = confinement
        self._heartbeat_s = settings.heartbeat
        self._changed = asyncio.Event()
        self._background = Tasks(log)
        self._closing = False
        self._first_connect = asyncio.Event()
        self.on_announce: Callable[[], Awaitable[None]] = _nothing
        """Called when a manager that speaks our protocol announces itself."""

    @property
    def running(self) -> int:
        """How many attempts and invocations have no outcome yet."""
        return self._attempts.running

    async def open(self) -> None:
        """Report what an earlier life left behind and declare the subscriptions; call before the bus connects."""
        await self._uploads.open()
        await self._attempts.report_lost()
        self._bus.on_connect(self._connected)
        expecting = self._site.expect_manager(self._first_connect, self._topics.announce)
        self._background.start(expecting, "expect the manager")
        self._outbox.on_settled = lambda _ref: self._changed.set()
        self._attempts.on_change = self._changed.set
        await self._bus.subscribe(self._topics.announce, self._announced)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "start"), self._started)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "stop"), self._stop)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "invoke"), self._invoked)
        await self._bus.subscribe(self._topics.to_proplet(self._id, "ack"), self._acknowledged)
        await self._outbox.open()
        await self._deliveries.open()
        self._background.start(self._report(), "report")

    async def close(self) -> None:
        """Say goodbye and kill what runs. The journal keeps the attempts: the next life reports them."""
        self._closing = True
        will = offline_will(self._topics, self._id, self._instance)
        if self._bus.connected:
            with contextlib.suppress(BusError):
                await self._bus.publish(will.topic, will.payload, timeout=GOODBYE_S)
        await self._background.close()
        await self._attempts.close()
        await self._deliveries.close()
        await self._uploads.close()
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
            # The manager is new: it may not have heard of us, nor what we said while it was away.
            await self._say_hello()
            self._attempts.log_again()
            await self._outbox.send_everything()

    async def _started(self, message: Received) -> None:
        if self._closing:
            return
        try:
            start = checked(Start.decode(message.payload))
        except InvalidRequestError as error:
            self._refuse_invalid(message.payload, error)
            return
        if start.proplet_id != self._id:
            log.warning("start for another proplet ignored", task_id=start.id, proplet_id=start.proplet_id)
            return
        self._attempts.start(start)

    async def _invoked(self, message: Received) -> None:
        if self._closing:
            return
        try:
            invoke = checked_invoke(Invoke.decode(message.payload))
        except InvalidRequestError as error:
            self._refuse_invalid(message.payload, error)
            return
        if invoke.proplet_id == self._id:
            self._attempts.invoke(invoke)
        else:
            log.warning("invocation for another proplet ignored", task_id=invoke.task_id, proplet_id=invoke.proplet_id)

    def _refuse_invalid(self, payload: bytes, error: InvalidRequestError) -> None:
        """Of a start or an invocation that at least says which it is."""
        log.error("start refused", error=error.sentence)
        try:
            said = from_json(payload)
            invocation = said.get("invocation_id", "")
            ref = Ref(said["task_id"] if invocation else said["id"], said["attempt"], invocation)
            addressed = said.get("proplet_id", self._id)
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        known = isinstance(ref.task_id, str) and type(ref.attempt) is int and isinstance(invocation, str)
        if known and 1 <= ref.attempt < 2**31 and addressed == self._id and not self._attempts.knows(ref):
            self._outbox.deny(ref, "invalid_invocation" if invocation else "invalid_start", error.sentence)

    async def _stop(self, message: Received) -> None:
        stop = Stop.decode(message.payload)
        if stop.proplet_id == self._id and not self._closing:
            self._attempts.stop(stop.id, stop.attempt)

    async def _acknowledged(self, message: Received) -> None:
        self._outbox.acknowledged(Ack.decode(message.payload).ids)

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
            metadata=described(self._settings.name) | self._policy.described(),
            capabilities=capabilities(
                slots=self._settings.slots,
                queue=self._settings.queue,
                labels=self._labels,
                datasets=self._site.datasets,
                digests=self._site.digests(),
                confinement=self._confinement,
            ),
        )
        await self._bus.publish(self._topics.proplet(self._id, "create"), create.encode(), timeout=10)

    def describe_again(self) -> None:
        """What the manager was told of this proplet has changed."""
        if self._bus.connected:
            self._background.start(self._create(), "describe")

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
                await asyncio.sleep(max(0.0, last + REPORT_GAP_S - asyncio.get_running_loop().time()))
            self._changed.clear()
            last = asyncio.get_running_loop().time()
            if self._bus.connected and not self._closing:
                with contextlib.suppress(BusError):
                    await self._bus.publish(self._topics.proplet(self._id, "alive"), self._alive().encode(), qos=0)

    def _alive(self) -> Alive:
        held = {*self._attempts.told(), *self._outbox.awaited(), *self._deliveries.refs(), *self._uploads.refs()}
        attempts = sorted(ref for ref in held if not ref.invocation)
        return Alive(
            proplet_id=self._id,
            instance=self._instance,
            status="alive",
            namespace=self._settings.namespace,
            running=[AttemptRef(task_id=ref.task_id, attempt=ref.attempt) for ref in attempts],
            invocations=sorted(ref.invocation for ref in held if ref.invocation),
            free_slots=self._attempts.free_slots,
        )


def new_instance() -> str:
    return uuid.uuid4().hex
