"""What every bus promises, asked of each kind alike."""

from __future__ import annotations

import asyncio
import random
import socket
from abc import ABC, abstractmethod

import pytest

from swashplate.bus import (
    BrokerAddress,
    Bus,
    BusError,
    MemoryBroker,
    MemoryBus,
    MqttBus,
    PayloadTooLargeError,
    Received,
    Will,
)
from swashplate.testing import FaultyBroker, FaultyBus

PATIENCE = 10


class World(ABC):
    """A broker that can go away and come back, and clients of it."""

    base: str

    @abstractmethod
    def client(self, name: str, *, will: Will | None = None, clean_session: bool = True) -> Bus: ...

    @abstractmethod
    async def cut(self, bus: Bus) -> None:
        """Break the connection as a crashed process would."""

    @abstractmethod
    async def outage(self, *buses: Bus) -> None: ...

    @abstractmethod
    async def recovery(self, *buses: Bus) -> None: ...

    @abstractmethod
    async def kept(self, text: str) -> None:
        """Until the broker would know of ``text`` after an outage."""


class MemoryWorld(World):
    base = "m/d/c/c"

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def client(self, name, *, will=None, clean_session=True):
        return MemoryBus(self.broker, client_id=name, will=will, clean_session=clean_session)

    async def cut(self, bus):
        bus.drop()

    async def outage(self, *buses):
        for bus in buses:
            bus.drop()

    async def kept(self, text):
        pass

    async def recovery(self, *buses):
        for bus in buses:
            await bus.reconnect()


class SimulatedWorld(MemoryWorld):
    """The broker of simulations, without faults of its own, in real time."""

    def __init__(self) -> None:
        self.broker = FaultyBroker(random.Random(1))

    def client(self, name, *, will=None, clean_session=True):
        return FaultyBus(self.broker, client_id=name, will=will, clean_session=clean_session)

    async def cut(self, bus):
        self.broker.cut(bus.client_id)

    async def outage(self, *buses):
        self.broker.stop(forget=False)
        async with asyncio.timeout(PATIENCE):
            while any(bus.connected for bus in buses):
                await asyncio.sleep(0.001)

    async def recovery(self, *buses):
        self.broker.start()
        for bus in buses:
            await bus.wait_connected(PATIENCE)


class BrokerWorld(World):
    def __init__(self, broker) -> None:
        self.broker = broker
        self.base = broker.credentials.topics.base

    def client(self, name, *, will=None, clean_session=True):
        login = self.broker.credentials.client("manager")
        return MqttBus(
            BrokerAddress.parse(f"tcp://127.0.0.1:{self.broker.port}"),
            client_id=name,
            username=login.id,
            password=login.key,
            will=will,
            clean_session=clean_session,
        )

    async def cut(self, bus):
        bus._client.socket().shutdown(socket.SHUT_RDWR)

    async def outage(self, *buses):
        self.broker.kill()
        async with asyncio.timeout(PATIENCE):
            while any(bus.connected for bus in buses):
                await asyncio.sleep(0)

    async def kept(self, text):
        await asyncio.to_thread(self.broker.kept, text.encode())

    async def recovery(self, *buses):
        await asyncio.to_thread(self.broker.start)
        for bus in buses:
            await bus.wait_connected(PATIENCE)


@pytest.fixture(params=["memory", "simulated", "embedded", "mosquitto"])
def world(request):
    if request.param == "memory":
        yield MemoryWorld()
    elif request.param == "simulated":
        yield SimulatedWorld()
    else:
        with request.getfixturevalue("make_broker")(request.param) as broker:
            yield BrokerWorld(broker)


class Inbox:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Received] = asyncio.Queue()

    async def __call__(self, message: Received) -> None:
        self.queue.put_nowait(message)

    async def next(self) -> Received:
        async with asyncio.timeout(PATIENCE):
            return await self.queue.get()

    async def payloads(self, count: int) -> list[bytes]:
        return [(await self.next()).payload for _ in range(count)]


async def joined(bus: Bus) -> Bus:
    await bus.wait_connected(PATIENCE)
    return bus


async def test_messages_of_one_pattern_arrive_in_order(world):
    inbox = Inbox()
    async with world.client("a") as a, world.client("b") as b:
        await (await joined(b)).subscribe(f"{world.base}/control/+/x", inbox)
        await joined(a)
        for number in range(50):
            await a.publish(f"{world.base}/control/p/x", b"%d" % number)
        assert await inbox.payloads(50) == [b"%d" % number for number in range(50)]


async def test_large_and_small_messages_arrive_whole_and_in_order(world):
    inbox = Inbox()
    sizes = [1, (1 << 16) - 100, 1 << 16, (1 << 16) + 1, 3 << 20, 10, 5 << 20, 0, 200_000]
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    async with world.client("a") as a, world.client("b") as b:
        await (await joined(b)).subscribe(f"{world.base}/control/+/x", inbox)
        await joined(a)
        await asyncio.gather(*(a.publish(f"{world.base}/control/p/x", payload) for payload in sent))
        assert await inbox.payloads(len(sent)) == sent


async def test_what_is_posted_arrives_in_order_without_waiting(world):
    inbox = Inbox()
    async with world.client("a") as a, world.client("b") as b:
        a.post(f"{world.base}/control/p/x", b"lost: not connected yet, or nobody listens")
        await (await joined(b)).subscribe(f"{world.base}/control/+/x", inbox)
        await joined(a)
        for number in range(300):
            a.post(f"{world.base}/control/p/x", b"%d" % number, qos=number % 2)
        received = await inbox.payloads(300)
        for qos in (0, 1):
            assert [p for p in received if int(p) % 2 == qos] == [b"%d" % n for n in range(300) if n % 2 == qos]


async def test_a_retained_message_reaches_a_later_subscriber(world):
    inbox = Inbox()
    async with world.client("a") as a, world.client("b") as b:
        await (await joined(a)).publish(f"{world.base}/control/manager/announce", b"hello", retain=True)
        await (await joined(b)).subscribe(f"{world.base}/control/manager/announce", inbox)
        assert (await inbox.next()).payload == b"hello"


async def test_a_subscription_declared_before_the_connection_stands_after_it(world):
    inbox = Inbox()
    b = world.client("b")
    await b.subscribe(f"{world.base}/fl/x", inbox)
    async with b, world.client("a") as a:
        await joined(b)
        await (await joined(a)).publish(f"{world.base}/fl/x", b"1")
        assert (await inbox.next()).payload == b"1"


async def test_overlapping_subscriptions_are_refused(world):
    async with world.client("a") as a:
        await (await joined(a)).subscribe(f"{world.base}/fl/#", Inbox())
        with pytest.raises(ValueError, match="overlaps"):
            await a.subscribe(f"{world.base}/fl/x", Inbox())


async def test_a_payload_over_the_limit_is_refused_before_it_is_sent(world):
    async with world.client("a") as a:
        await joined(a)
        with pytest.raises(PayloadTooLargeError):
            await a.publish(f"{world.base}/fl/x", bytes(a.max_payload + 1))
        assert a.connected


async def test_the_last_will_is_published_when_the_connection_breaks(world):
    inbox = Inbox()
    will = Will(f"{world.base}/control/proplet/p/alive", b"offline")
    async with world.client("a", will=will) as a, world.client("b") as b:
        await (await joined(b)).subscribe(will.topic, inbox)
        await joined(a)
        await world.cut(a)
        assert (await inbox.next()).payload == b"offline"


async def test_no_last_will_after_a_goodbye(world):
    inbox = Inbox()
    topic = f"{world.base}/control/proplet/p/alive"
    async with world.client("b") as b:
        await (await joined(b)).subscribe(topic, inbox)
        async with world.client("a", will=Will(topic, b"offline")) as a:
            await joined(a)
        await b.publish(topic, b"sentinel")
        assert (await inbox.next()).payload == b"sentinel"


async def test_after_an_outage_subscriptions_stand_again_and_hooks_run(world):
    inbox = Inbox()
    hellos = asyncio.Queue()

    async def hello() -> None:
        hellos.put_nowait(1)

    a, b = world.client("a"), world.client("b")
    b.on_connect(hello)
    async with a, b:
        await (await joined(b)).subscribe(f"{world.base}/fl/x", inbox)
        await joined(a)
        await asyncio.wait_for(hellos.get(), PATIENCE)
        await world.outage(a, b)
        await world.recovery(a, b)
        await asyncio.wait_for(hellos.get(), PATIENCE)
        await a.publish(f"{world.base}/fl/x", b"again")
        assert (await inbox.next()).payload == b"again"


async def test_a_publish_during_an_outage_is_delivered_after_it(world):
    inbox = Inbox()
    async with world.client("a") as a, world.client("b", clean_session=False) as b:
        await (await joined(b)).subscribe(f"{world.base}/fl/x", inbox)
        await joined(a)
        await world.kept(f"{world.base}/fl/x")
        await world.outage(a, b)
        publishing = asyncio.create_task(a.publish(f"{world.base}/fl/x", b"late"))
        await world.recovery(b, a)
        await asyncio.wait_for(publishing, PATIENCE)
        assert (await inbox.next()).payload == b"late"


async def test_a_publish_that_nobody_acknowledges_is_an_error(world):
    async with world.client("a") as a:
        await joined(a)
        await world.outage(a)
        with pytest.raises(BusError):
            await a.publish(f"{world.base}/fl/x", b"lost", timeout=0.05)


async def test_a_kept_session_gets_what_was_sent_while_it_was_away(world):
    inbox = Inbox()
    async with world.client("b", clean_session=False) as b:
        await (await joined(b)).subscribe(f"{world.base}/fl/x", Inbox())
    async with world.client("a") as a:
        await (await joined(a)).publish(f"{world.base}/fl/x", b"kept")
    again = world.client("b", clean_session=False)
    await again.subscribe(f"{world.base}/fl/x", inbox)
    async with again:
        assert (await inbox.next()).payload == b"kept"


async def test_a_failing_handler_does_not_stop_later_messages(world):
    inbox = Inbox()

    async def handler(message: Received) -> None:
        if message.payload == b"bad":
            raise RuntimeError("broken on purpose")
        await inbox(message)

    async with world.client("a") as a, world.client("b") as b:
        await (await joined(b)).subscribe(f"{world.base}/fl/x", handler)
        await joined(a)
        await a.publish(f"{world.base}/fl/x", b"bad")
        await a.publish(f"{world.base}/fl/x", b"good")
        assert (await inbox.next()).payload == b"good"


async def test_an_unsubscribed_pattern_is_silent(world):
    silent, heard = Inbox(), Inbox()
    async with world.client("a") as a, world.client("b") as b:
        await (await joined(b)).subscribe(f"{world.base}/fl/x", silent)
        await b.subscribe(f"{world.base}/fl/y", heard)
        await b.unsubscribe(f"{world.base}/fl/x")
        await joined(a)
        await a.publish(f"{world.base}/fl/x", b"1")
        await a.publish(f"{world.base}/fl/y", b"2")
        assert (await heard.next()).payload == b"2"
        assert silent.queue.empty()


async def test_a_message_is_acknowledged_only_after_its_handler(make_broker):
    """A QoS 1 message whose handler had not returned is delivered again to a kept session."""
    with make_broker(ack_wait_s=1) as broker:
        world = BrokerWorld(broker)
        stuck = asyncio.Event()
        reached = asyncio.Event()

        async def never(_: Received) -> None:
            reached.set()
            await stuck.wait()

        first = world.client("b", clean_session=False)
        await first.subscribe(f"{world.base}/fl/x", never)
        async with first, world.client("a") as a:
            await joined(first)
            await (await joined(a)).publish(f"{world.base}/fl/x", b"unhandled")
            await asyncio.wait_for(reached.wait(), PATIENCE)
        inbox = Inbox()
        again = world.client("b", clean_session=False)
        await again.subscribe(f"{world.base}/fl/x", inbox)
        async with again:
            assert (await inbox.next()).payload == b"unhandled"


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_a_refused_login_never_counts_as_connected(make_broker, kind):
    with make_broker(kind) as broker:
        bus = MqttBus(
            BrokerAddress.parse(f"tcp://127.0.0.1:{broker.port}"), client_id="x", username="nobody", password="no"
        )
        async with bus:
            with pytest.raises(BusError, match="refuses the credentials"):
                await bus.wait_connected(0.5)


async def test_a_subscription_made_while_the_others_are_being_made_stands_too(make_broker):
    """Between the broker's greeting and the moment when every declared subscription stands."""
    with make_broker() as broker:
        world = BrokerWorld(broker)
        inbox = Inbox()
        bus = world.client("b")
        for n in range(20):
            await bus.subscribe(f"{world.base}/fl/declared{n}", Inbox())
        async with bus, world.client("a") as a:
            async with asyncio.timeout(PATIENCE):
                while not bus._suback:  # the first of the declared ones has been asked for
                    await asyncio.sleep(0)
            assert not bus.connected
            await bus.subscribe(f"{world.base}/fl/late", inbox)
            await joined(bus)
            await (await joined(a)).publish(f"{world.base}/fl/late", b"1")
            assert (await inbox.next()).payload == b"1"


class HalfBroker:
    """Greets, and then never answers a subscription; counts how often it was connected to."""

    def __init__(self) -> None:
        self.greeted = asyncio.Queue()
        self.asked = asyncio.Queue()

    async def serve(self, reader, writer):
        try:
            await reader.readuntil(b"MQTT")
            await reader.read(1000)
            writer.write(b"\x20\x02\x00\x00")
            self.greeted.put_nowait(writer)
            await reader.read(1000)
            self.asked.put_nowait(writer)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def test_a_connection_that_breaks_before_the_subscriptions_stand_never_counts_as_connected():
    half = HalfBroker()
    server = await asyncio.start_server(half.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        bus = MqttBus(BrokerAddress.parse(f"tcp://127.0.0.1:{port}"), client_id="x", username="u", password="p")
        await bus.subscribe("a/b", Inbox())
        async with bus:
            for _ in range(2):  # it is cut while it waits for the answer, and connects and asks anew
                writer = await asyncio.wait_for(half.asked.get(), PATIENCE)
                assert not bus.connected
                writer.close()
            await asyncio.wait_for(half.greeted.get(), PATIENCE)
            assert not bus.connected


async def test_what_waits_for_an_unsubscribed_handler_does_not_hold_up_other_acknowledgements(make_broker):
    """Acknowledgements leave in the order of arrival, so the forgotten ones must leave too."""
    with make_broker(ack_wait_s=1) as broker:
        world = BrokerWorld(broker)
        reached = asyncio.Event()

        async def never(_: Received) -> None:
            reached.set()
            await asyncio.Event().wait()

        heard = Inbox()
        async with world.client("b", clean_session=False) as bus, world.client("a") as a:
            await (await joined(bus)).subscribe(f"{world.base}/fl/stuck", never)
            await bus.subscribe(f"{world.base}/fl/heard", heard)
            await joined(a)
            for n in range(3):
                await a.publish(f"{world.base}/fl/stuck", b"%d" % n)
            await asyncio.wait_for(reached.wait(), PATIENCE)
            await bus.unsubscribe(f"{world.base}/fl/stuck")
            await a.publish(f"{world.base}/fl/heard", b"1")
            assert (await heard.next()).payload == b"1"
            async with asyncio.timeout(PATIENCE):
                while bus._unsettled:
                    await asyncio.sleep(0)
