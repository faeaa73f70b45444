"""MQTT 3.1.1: paho behind the asyncio interface, driven by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from swashplate import logging
from swashplate.bus.address import BrokerAddress
from swashplate.bus.base import (
    Bus,
    BusError,
    PublishTimeoutError,
    Received,
    Subscription,
    SubscriptionRefusedError,
    Will,
)
from swashplate.bus.driver import Client, Driver
from swashplate.bus.link import STEADY_S, Link, LinkHints

log = logging.get("bus")

_REFUSED = 128


class _NotConnectedError(BusError):
    """There is no connection to ask on."""


class MqttBus(Bus):
    """One connection to a broker; reconnects for ever, subscribes again, and keeps unacknowledged publishes.

    ``publish_qos`` 2 raises what is published at QoS 1. What is read stays at QoS 1: the acknowledgement of QoS 2 is split,
    and a crash between its halves loses the message.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        username: str,
        password: str,
        will: Will | None = None,
        clean_session: bool = True,
        keep_alive: int = 30,
        max_payload: int = Bus.max_payload,
        publish_timeout: float = Bus.publish_timeout,
        publish_qos: int = 1,
        hints: LinkHints | None = None,
    ) -> None:
        super().__init__()
        self.max_payload = max_payload
        self.publish_timeout = publish_timeout
        self._publish_qos = publish_qos
        self._link = Link(str(address), tls=address.tls, hints=hints or LinkHints())
        self._accepted_at: float | None = None
        """When the broker accepted the present connection."""
        self._published: dict[int, asyncio.Future[None]] = {}
        self._asked: dict[int, str] = {}
        """What the broker has been asked and has not answered, by message id."""
        self._written: dict[int, asyncio.Future[None]] = {}
        self._suback: dict[int, asyncio.Future[int]] = {}
        self._unsettled: deque[list[Any]] = deque()
        self._generation = 0
        self._joining: asyncio.Task[None] | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._linked = False
        self._refused = False
        self._closing = False
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean_session,
            protocol=paho.MQTTv311,
            manual_ack=True,
        )
        client.username_pw_set(username, password)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(10_000)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=will.qos)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._driver = Driver(client, address, keep_alive=keep_alive)
        self._driver.on_unreachable = self._link.unreachable
        self._client = client

    @property
    def trouble(self) -> str | None:
        return self._link.trouble or super().trouble

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._driver.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing = True
        await self._close_subscriptions()
        if self._joining is not None:
            self._joining.cancel()
        if self._settling is not None:
            self._settling.cancel()
        await self._driver.close()
        self._release_written()
        unanswered: list[asyncio.Future[Any]] = [*self._published.values(), *self._suback.values()]
        for waiting in unanswered:
            if not waiting.done():
                waiting.set_exception(BusError("the bus was closed"))
                waiting.exception()

    def _post(self, topic: str, payload: bytes, *, qos: int) -> None:
        self._hand_to_paho(topic, payload, qos=qos, retain=False)

    def _hand_to_paho(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> paho.MQTTMessageInfo:
        info = self._client.publish(topic, payload, qos=max(qos, self._publish_qos) if qos else 0, retain=retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise BusError("too many messages wait for the broker", code="queue_full", retryable=True)
        return info

    async def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, timeout: float) -> None:
        info = self._hand_to_paho(topic, payload, qos=qos, retain=retain)
        if qos == 0:
            if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                await self._wait_written(info.mid, timeout)
            return
        acknowledged: asyncio.Future[None] = self._loop.create_future()
        self._published[info.mid] = acknowledged
        self._asked[info.mid] = f"publish {topic}"
        try:
            async with asyncio.timeout(timeout):
                await acknowledged
        except TimeoutError as error:
            raise PublishTimeoutError(f"the MQTT broker did not acknowledge {topic} within {timeout:g} s") from error
        finally:
            self._published.pop(info.mid, None)
            self._asked.pop(info.mid, None)

    async def _wait_written(self, mid: int, timeout: float) -> None:
        """Until the socket took it: a sender that is faster than the broker must not fill our memory."""
        written: asyncio.Future[None] = self._loop.create_future()
        self._written[mid] = written
        try:
            async with asyncio.timeout(timeout):
                await written
        except TimeoutError:
            log.warning("the MQTT broker does not read", seconds=timeout)
        finally:
            self._written.pop(mid, None)

    def _release_written(self) -> None:
        """The connection is gone, and with it what was not written; nobody promised more for QoS 0."""
        for written in self._written.values():
            if not written.done():
                written.set_result(None)

    async def _subscribe(self, subscription: Subscription) -> None:
        if self.connected:
            with contextlib.suppress(_NotConnectedError):  # the next connect subscribes again
                await self._ask(subscription)

    async def _ask(self, subscription: Subscription) -> None:
        code, mid = self._client.subscribe(subscription.pattern, subscription.qos)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise _NotConnectedError("the connection to the MQTT broker is gone", retryable=True)
        granted: asyncio.Future[int] = self._loop.create_future()
        self._suback[mid] = granted
        self._asked[mid] = f"subscribe {subscription.pattern}"
        try:
            async with asyncio.timeout(10):
                if await granted >= _REFUSED:
                    raise SubscriptionRefusedError(
                        f"the broker refuses the subscription {subscription.pattern}",
                        hint="its access list does not allow this client to read that topic",
                    )
        except TimeoutError as error:
            raise BusError(f"no answer to the subscription {subscription.pattern}", retryable=True) from error
        finally:
            self._suback.pop(mid, None)
            self._asked.pop(mid, None)

    async def _unsubscribe(self, pattern: str) -> None:
        self._client.unsubscribe(pattern)

    async def _join(self) -> None:
        """After a connect: subscribe again, then let the owner say hello."""
        asked: set[Subscription] = set()
        # Others may subscribe meanwhile: nothing is awaited between the last look and the announcement below.
        while missing := [each for each in self._subscriptions.values() if each not in asked]:
            for subscription in missing:
                asked.add(subscription)
                try:
                    await self._ask(subscription)
                except SubscriptionRefusedError:
                    log.error("subscription refused", pattern=subscription.pattern, hint=self._link.hints.topics)
                except _NotConnectedError:
                    return
                except BusError as error:
                    log.warning("subscription unanswered, connecting anew", error=error.sentence)
                    self._driver.cut()
                    return
                else:
                    if not self._link.dropping:
                        log.info("successfully subscribed to topic", topic=subscription.pattern)
        if not self._linked:
            return
        self._connected.set()
        self._link.joined()
        await self._run_hooks()

    # What follows is called by paho, from within the driver.

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if reason.is_failure:
            self._refused = True
            self._link.refused(str(reason))
            return
        self._accepted_at = time.monotonic()
        self._generation += 1
        self._linked = True
        self._unsettled.clear()
        if self._joining is not None:
            self._joining.cancel()
        self._joining = self._loop.create_task(self._join(), name="bus:join")
        self._settling = self._loop.call_later(STEADY_S, self._link.steady)

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if self._settling is not None:
            self._settling.cancel()
        # MQTT 3.1.1 gives no reason for an end; paho has words for that which say less.
        said = "the connection ended" if str(reason) == "Unspecified error" else str(reason)
        if self._accepted_at is not None and not self._closing:
            lasted = time.monotonic() - self._accepted_at
            self._link.lost(said, after_s=lasted, doing=list(self._asked.values())[:5])
        elif not self._refused and not self._closing:
            self._link.unanswered(said)
        self._accepted_at = None
        self._refused = False
        self._connected.clear()
        self._linked = False
        for waiting in self._suback.values():
            if not waiting.done():
                waiting.set_exception(_NotConnectedError("the connection to the MQTT broker is gone", retryable=True))
        self._release_written()

    def _on_publish(self, _: Any, __: Any, mid: int, ___: Any, ____: Any) -> None:
        waiting = self._published.get(mid) or self._written.get(mid)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _on_subscribe(self, _: Any, __: Any, mid: int, reasons: Any, ____: Any) -> None:
        waiting = self._suback.get(mid)
        if waiting is not None and not waiting.done():
            waiting.set_result(reasons[0].value if reasons else _REFUSED)

    def _on_message(self, _: Any, __: Any, said: Any) -> None:
        message = Received(said.topic, said.payload, said.retain)
        if said.qos == 0:
            self._dispatch(message, None)
            return
        entry = [said.mid, said.qos, False]
        generation = self._generation
        self._unsettled.append(entry)

        def settle() -> None:
            # Acknowledgements leave in the order of arrival (MQTT-4.6.0-2), and never over a newer connection.
            entry[2] = True
            if generation != self._generation:
                return
            while self._unsettled and self._unsettled[0][2]:
                done = self._unsettled.popleft()
                self._client.ack(done[0], done[1])

        self._dispatch(message, settle)
