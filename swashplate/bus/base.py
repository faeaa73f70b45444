"""What a bus promises, and the part that every bus shares: subscriptions and their dispatch."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from swashplate import logging, topics
from swashplate.errors import SwashplateError

log = logging.get("bus")

DEFAULT_MAX_PAYLOAD = 8 * 1024 * 1024
QUEUE_LIMIT = 10_000


class BusError(SwashplateError):
    """The root of what a bus raises."""

    status: ClassVar[int] = 503
    default_code: ClassVar[str] = "bus"


class PublishTimeoutError(BusError):
    """The broker did not acknowledge in time; the message may still arrive later."""

    default_code = "publish_timeout"
    default_retryable = True


class PayloadTooLargeError(BusError):
    """The broker would disconnect us for it, and the client resend it for ever."""

    status = 413
    default_code = "payload_too_large"


class SubscriptionRefusedError(BusError):
    """The broker's access list does not allow this subscription."""

    default_code = "subscription_refused"


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this client vanishes without a goodbye."""

    topic: str
    payload: bytes
    qos: int = 1


Handler = Callable[[Received], Awaitable[None]]
Settle = Callable[[], None]


class Subscription:
    """One pattern, one handler, one queue: messages of a pattern are handled in order, patterns independently.

    A QoS 1 message is acknowledged (``settle``) after its handler returned, so the broker's own window bounds the queue;
    a QoS 0 message over the limit is dropped and counted.
    """

    def __init__(self, pattern: str, handler: Handler, qos: int) -> None:
        self.pattern = pattern
        self.qos = qos
        self.dropped = 0
        self._handler = handler
        self._unsettled: Settle | None = None
        self._queue: asyncio.Queue[tuple[Received, Settle | None]] = asyncio.Queue()
        self._worker = asyncio.get_running_loop().create_task(self._work(), name=f"bus:{pattern}")

    def deliver(self, message: Received, settle: Settle | None) -> None:
        if settle is None and self._queue.qsize() >= QUEUE_LIMIT:
            self.dropped += 1
            if self.dropped == 1 or self.dropped % QUEUE_LIMIT == 0:
                log.warning("dropping QoS 0 messages: the handler is slower than they arrive", pattern=self.pattern)
            return
        self._queue.put_nowait((message, settle))

    async def _work(self) -> None:
        while True:
            message, settle = await self._queue.get()
            self._unsettled = settle
            try:
                await self._handler(message)
            except SwashplateError as error:
                log.warning("message refused", topic=message.topic, error=error.sentence, code=error.code)
            except Exception:
                log.exception("message handler failed", topic=message.topic)
            if settle is not None:
                settle()
            self._unsettled = None

    async def close(self, *, forget: bool = False) -> None:
        """Stop handling. What waits stays unacknowledged, so that a kept session gets it again, unless it is forgotten."""
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        if not forget:
            return
        left = [self._unsettled] + [self._queue.get_nowait()[1] for _ in range(self._queue.qsize())]
        for settle in left:
            if settle is not None:
                settle()


class Bus(ABC):
    """Publish and subscribe. Subscriptions are best declared before the bus is entered: then none of a kept session's
    messages can arrive before its handler. Handlers return once they have taken responsibility; long work goes to a task.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    publish_timeout: float = 30
    """Seconds that a publish may wait when it does not say."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._hooks: list[Callable[[], Awaitable[None]]] = []
        self._connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """True while the broker has accepted us and every subscription stands."""
        return self._connected.is_set()

    @property
    def trouble(self) -> str | None:
        """Why this bus cannot be used now, in one sentence; None when it can."""
        return None if self.connected else "not connected to the MQTT broker"

    async def wait_connected(self, timeout: float) -> None:
        """Raises ``BusError`` when the broker does not answer within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError as error:
            reason = self.trouble or "not connected to the MQTT broker"
            raise BusError(f"no connection within {timeout:g} s: {reason}", retryable=True) from error

    def on_connect(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Run ``hook`` after every (re)connect, once the subscriptions stand again."""
        self._hooks.append(hook)

    async def subscribe(self, pattern: str, handler: Handler, *, qos: int = 1) -> None:
        """Call ``handler`` for what matches ``pattern``. Overlapping patterns are refused: a broker delivers twice."""
        for other in self._subscriptions:
            if topics.overlap(pattern, other):
                raise ValueError(f"subscription {pattern!r} overlaps {other!r}")
        subscription = Subscription(pattern, handler, qos)
        self._subscriptions[pattern] = subscription
        try:
            await self._subscribe(subscription)
        except BaseException:
            self._subscriptions.pop(pattern, None)
            await subscription.close()
            raise

    async def unsubscribe(self, pattern: str) -> None:
        subscription = self._subscriptions.pop(pattern, None)
        if subscription is not None:
            await self._unsubscribe(pattern)
            await subscription.close(forget=True)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, timeout: float | None = None
    ) -> None:
        """Return when the broker has acknowledged (QoS 1) or the socket has taken it (QoS 0; lost when not connected).

        An acknowledgement means only that the broker has the bytes, not that anybody was allowed to read them.
        """
        if len(payload) > self.max_payload:
            raise PayloadTooLargeError(f"message of {len(payload)} bytes is over the limit of {self.max_payload}")
        await self._publish(topic, payload, qos=qos, retain=retain, timeout=timeout or self.publish_timeout)

    def post(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Hand a message over without waiting for the broker, for what its receiver confirms; lost when not connected.

        Raises ``BusError`` when it can never be sent, or when too many wait already.
        """
        if len(payload) > self.max_payload:
            raise PayloadTooLargeError(f"message of {len(payload)} bytes is over the limit of {self.max_payload}")
        if self.connected:
            self._post(topic, payload, qos=qos)

    def _dispatch(self, message: Received, settle: Settle | None) -> None:
        for pattern, subscription in self._subscriptions.items():
            if topics.matches(pattern, message.topic):
                subscription.deliver(message, settle)
                return
        if settle is not None:
            settle()

    async def _run_hooks(self) -> None:
        for hook in self._hooks:
            try:
                await hook()
            except SwashplateError as error:
                log.warning("connect hook failed", error=error.sentence)
            except Exception:
                log.exception("connect hook failed")

    async def _close_subscriptions(self) -> None:
        for subscription in list(self._subscriptions.values()):
            await subscription.close()

    @abstractmethod
    async def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, timeout: float) -> None: ...

    @abstractmethod
    def _post(self, topic: str, payload: bytes, *, qos: int) -> None: ...

    @abstractmethod
    async def _subscribe(self, subscription: Subscription) -> None: ...

    @abstractmethod
    async def _unsubscribe(self, pattern: str) -> None: ...

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *exc: object) -> None: ...
