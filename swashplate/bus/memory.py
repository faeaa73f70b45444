"""A broker in memory with MQTT's semantics, for tests and simulations; it passes the same contract tests as the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from swashplate import topics
from swashplate.bus.base import Bus, BusError, Received, Subscription, Will

AccessList = Callable[[str, str, str], bool]
"""``(client id, "publish" | "subscribe" | "deliver", topic)`` → allowed."""


class MemoryBroker:
    """Retained messages, last wills, kept sessions, and an access list that filters at delivery."""

    def __init__(self, *, allows: AccessList | None = None) -> None:
        self.retained: dict[str, bytes] = {}
        self._allows = allows or (lambda _client, _what, _topic: True)
        self._online: dict[str, MemoryBus] = {}
        self._kept: dict[str, tuple[list[str], list[Received]]] = {}

    def attach(self, bus: MemoryBus) -> None:
        previous = self._online.get(bus.client_id)
        if previous is not None:
            previous.drop()
        self._online[bus.client_id] = bus

    def detach(self, bus: MemoryBus, *, patterns: list[str], graceful: bool) -> None:
        if self._online.get(bus.client_id) is bus:
            del self._online[bus.client_id]
        if not bus.clean_session:
            self._kept[bus.client_id] = (patterns, [])
        if not graceful and bus.will is not None:
            self.publish(bus.client_id, bus.will.topic, bus.will.payload, qos=bus.will.qos)

    def queued(self, client_id: str) -> list[Received]:
        return self._kept.pop(client_id, ([], []))[1]

    def publish(self, client_id: str, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if not self._allows(client_id, "publish", topic):
            return
        if retain:
            if payload:
                self.retained[topic] = payload
            else:
                self.retained.pop(topic, None)
        message = Received(topic, payload)
        for bus in list(self._online.values()):
            if self._allows(bus.client_id, "deliver", topic):
                bus.arrive(message, qos)
        for kept_id, (patterns, queue) in self._kept.items():
            wanted = any(topics.matches(pattern, topic) for pattern in patterns)
            if qos and wanted and self._allows(kept_id, "deliver", topic):
                queue.append(message)

    def retained_for(self, client_id: str, pattern: str) -> list[Received]:
        return [
            Received(topic, payload, retain=True)
            for topic, payload in self.retained.items()
            if topics.matches(pattern, topic) and self._allows(client_id, "deliver", topic)
        ]


class MemoryBus(Bus):
    """One client of a ``MemoryBroker``. ``drop`` cuts the connection as a crash would, ``reconnect`` brings it back."""

    def __init__(
        self, broker: MemoryBroker, *, client_id: str, will: Will | None = None, clean_session: bool = True
    ) -> None:
        super().__init__()
        self.client_id = client_id
        self.will = will
        self.clean_session = clean_session
        self._broker = broker
        self._back = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.reconnect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.connected:
            self._connected.clear()
            self._broker.detach(self, patterns=list(self._subscriptions), graceful=True)
        await self._close_subscriptions()

    def drop(self) -> None:
        if self.connected:
            self._connected.clear()
            self._broker.detach(self, patterns=list(self._subscriptions), graceful=False)

    async def reconnect(self) -> None:
        queued = [] if self.clean_session else self._broker.queued(self.client_id)
        self._broker.attach(self)
        self._connected.set()
        for message in queued:
            self._dispatch(message, lambda: None)
        for subscription in list(self._subscriptions.values()):
            await self._subscribe(subscription)
        self._back.set()
        await self._run_hooks()

    def arrive(self, message: Received, qos: int) -> None:
        self._dispatch(message, (lambda: None) if qos else None)

    async def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, timeout: float) -> None:
        while not self.connected:
            if qos == 0:
                return
            self._back.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._back.wait()
            except TimeoutError as error:
                raise BusError(f"not connected, {topic} was not published", retryable=True) from error
        self._broker.publish(self.client_id, topic, payload, qos=qos, retain=retain)

    def _post(self, topic: str, payload: bytes, *, qos: int) -> None:
        self._broker.publish(self.client_id, topic, payload, qos=qos)

    async def _subscribe(self, subscription: Subscription) -> None:
        if self.connected:
            for message in self._broker.retained_for(self.client_id, subscription.pattern):
                subscription.deliver(message, lambda: None)

    async def _unsubscribe(self, pattern: str) -> None:
        return
