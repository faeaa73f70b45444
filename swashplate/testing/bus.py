"""One client of a ``FaultyBroker``; it behaves as ``MqttBus`` does, reconnects and resent publishes included."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from swashplate.bus import Bus, PublishTimeoutError, Received, SubscriptionRefusedError, Will
from swashplate.bus.base import Settle, Subscription, log
from swashplate.testing.broker import FaultyBroker, Link

T = TypeVar("T")

AGAIN_S, AGAIN_MOST_S = 0.1, 5.0


@dataclass
class _Outgoing:
    topic: str
    payload: bytes
    retain: bool
    acknowledged: asyncio.Future[None]


class FaultyBus(Bus):
    """Connects once entered, and again after each loss. Hands over what is unacknowledged after each connect, as long as its
    process lives.
    """

    def __init__(
        self, broker: FaultyBroker, *, client_id: str, will: Will | None = None, clean_session: bool = True
    ) -> None:
        super().__init__()
        self.client_id = client_id
        self.will = will
        self.clean_session = clean_session
        self._broker = broker
        self._link: Link | None = None
        self._broken = asyncio.Event()
        self._outgoing: dict[int, _Outgoing] = {}
        self._number = 0
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.get_running_loop().create_task(self._keep_connected(), name=f"bus:{self.client_id}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._close_subscriptions()
        self._connected.clear()
        if self._link is not None:
            self._broker.disconnect(self._link)
            self._link = None

    async def _keep_connected(self) -> None:
        pause = AGAIN_S
        while True:
            await asyncio.sleep(0)
            if self._broker.reachable(self.client_id):
                pause = AGAIN_S
                await self._connection()
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN_MOST_S)

    async def _connection(self) -> None:
        """One connection, until it breaks."""
        self._broken.clear()
        link = self._link = self._broker.connect(self)
        for number in list(self._outgoing):
            self._hand_over(link, number)
        joining = asyncio.get_running_loop().create_task(self._join(link), name=f"bus:join {self.client_id}")
        try:
            await self._broken.wait()
        finally:
            joining.cancel()

    async def _join(self, link: Link) -> None:
        asked: set[str] = set()
        while missing := [pattern for pattern in self._subscriptions if pattern not in asked]:
            asked.update(missing)
            answers = [self._ask(link, self._subscriptions[pattern]) for pattern in missing]
            for pattern, answer in zip(missing, answers, strict=True):
                if not await answer:
                    log.error("subscription refused", pattern=pattern)
        self._connected.set()
        await self._run_hooks()

    def _ask(self, link: Link, subscription: Subscription) -> asyncio.Future[bool]:
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._broker.subscribe(link, subscription.pattern, subscription.qos, lambda said: _answer(granted, said))
        return granted

    async def _subscribe(self, subscription: Subscription) -> None:
        if self._link is None or not self.connected:
            return  # the next connect subscribes
        granted = self._ask(self._link, subscription)
        broken = asyncio.ensure_future(self._broken.wait())
        either: list[asyncio.Future[Any]] = [granted, broken]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        broken.cancel()
        if granted.done() and not granted.result():
            raise SubscriptionRefusedError(f"the broker refuses the subscription {subscription.pattern}")

    async def _unsubscribe(self, pattern: str) -> None:
        if self._link is not None:
            self._broker.unsubscribe(self._link, pattern)

    async def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, timeout: float) -> None:
        if qos == 0:
            if self._link is not None:
                self._broker.publish(self._link, topic, payload, qos=0, retain=retain, number=0)
            return
        outgoing = self._put(topic, payload, retain=retain)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(outgoing.acknowledged)
        except TimeoutError as error:
            raise PublishTimeoutError(f"the broker did not acknowledge {topic} within {timeout:g} s") from error

    def _post(self, topic: str, payload: bytes, *, qos: int) -> None:
        if qos == 0:
            if self._link is not None:
                self._broker.publish(self._link, topic, payload, qos=0, retain=False, number=0)
        else:
            self._put(topic, payload, retain=False)

    def _put(self, topic: str, payload: bytes, *, retain: bool) -> _Outgoing:
        """A publish of QoS 1, on its way until it is acknowledged."""
        self._number += 1
        outgoing = _Outgoing(topic, payload, retain, asyncio.get_running_loop().create_future())
        self._outgoing[self._number] = outgoing
        if self._link is not None:
            self._hand_over(self._link, self._number)
        return outgoing

    def _hand_over(self, link: Link, number: int) -> None:
        each = self._outgoing[number]
        self._broker.publish(link, each.topic, each.payload, qos=1, retain=each.retain, number=number)

    # What the broker does to it.

    def acknowledged(self, number: int) -> None:
        outgoing = self._outgoing.pop(number, None)
        if outgoing is not None:
            _answer(outgoing.acknowledged, None)

    def arrived(self, message: Received, settle: Settle | None) -> None:
        self._dispatch(message, settle)

    def lost(self, link: Link) -> None:
        """Its connection is over."""
        if self._link is link:
            self._link = None
            self._connected.clear()
            self._broken.set()


def _answer(waiting: asyncio.Future[T], value: T) -> None:
    if not waiting.done():
        waiting.set_result(value)
