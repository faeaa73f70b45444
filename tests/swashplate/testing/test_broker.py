"""What a faulty network may do to messages, and what it may not. What every bus promises is in ``test_bus_contract``."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from swashplate.bus import PublishTimeoutError, Will
from swashplate.testing import Faults, FaultyBroker, FaultyBus, Process, run

BAD = Faults(slow=0.3, slow_s=3.0, loss=0.3, duplicate=0.3)
SEEDS = range(20)


class Pair:
    """A sender and a receiver, and what arrived."""

    def __init__(self, broker, *, clean_session=True) -> None:
        self.broker = broker
        self.sender = FaultyBus(broker, client_id="sender")
        self.receiver = FaultyBus(broker, client_id="receiver", clean_session=clean_session)
        self.heard: list[tuple[str, int]] = []

    async def _hear(self, message) -> None:
        self.heard.append((message.topic, int(message.payload)))

    @asynccontextmanager
    async def connected(self):
        await self.receiver.subscribe("t/#", self._hear)
        async with self.sender, self.receiver:
            await self.sender.wait_connected(60)
            await self.receiver.wait_connected(60)
            yield self


def first_of(heard: list[int]) -> list[int]:
    return list(dict.fromkeys(heard))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_topic_keeps_its_order_and_comes_at_least_once(seed):
    async def main():
        async with Pair(FaultyBroker(random.Random(seed), BAD)).connected() as pair:
            sending = [pair.sender.publish(f"t/{n % 3}", b"%d" % n, timeout=600) for n in range(60)]
            await asyncio.gather(*sending)
            await asyncio.sleep(60)
            return pair.heard

    heard = run(main())
    for topic in range(3):
        numbers = [number for name, number in heard if name == f"t/{topic}"]
        assert numbers == sorted(numbers)
        assert first_of(numbers) == list(range(topic, 60, 3))


def test_topics_overtake_each_other_and_messages_come_twice_and_get_lost():
    async def main(qos):
        async with Pair(FaultyBroker(random.Random(1), BAD)).connected() as pair:
            for n in range(100):
                await pair.sender.publish(f"t/{n % 3}", b"%d" % n, qos=qos)
            await asyncio.sleep(60)
            return [number for _, number in pair.heard]

    certain, hasty = run(main(1)), run(main(0))
    assert len(certain) > 100
    assert set(certain) == set(range(100))
    assert 10 < len(hasty) < 90
    assert hasty != sorted(hasty)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kept_session_loses_nothing_through_cuts_of_either_side(seed):
    async def main():
        chance, sending = random.Random(seed), []
        broker = FaultyBroker(chance, BAD)
        async with Pair(broker, clean_session=False).connected() as pair:
            for n in range(40):
                if chance.random() < 0.3:
                    who = chance.choice(("sender", "receiver"))
                    broker.cut(who, client_after=chance.random() * 3, broker_after=chance.random() * 9)
                sending.append(asyncio.ensure_future(pair.sender.publish("t/1", b"%d" % n, timeout=600)))
                await asyncio.sleep(chance.random())
            await asyncio.gather(*sending)
            await asyncio.sleep(60)
            return [number for _, number in pair.heard]

    assert first_of(run(main())) == list(range(40))


@pytest.mark.parametrize("forget", [False, True])
def test_a_broker_that_dies_keeps_or_forgets_sessions_and_retained_messages(forget):
    async def main():
        broker = FaultyBroker(random.Random(3))
        async with Pair(broker, clean_session=False).connected() as pair:
            await pair.sender.publish("t/retained", b"1", retain=True)
            await asyncio.sleep(1)
            broker.partition("receiver", 10)
            await pair.sender.publish("t/x", b"2")
            broker.stop(forget=forget)
            await asyncio.sleep(1)
            assert not pair.sender.connected
            broker.start()
            await asyncio.sleep(60)
            assert pair.sender.connected
            return pair.heard

    kept = run(main())
    assert (("t/x", 2) in kept) is not forget
    assert kept.count(("t/retained", 1)) == (1 if forget else 2)


def test_a_publish_that_timed_out_is_delivered_all_the_same_later():
    async def main():
        broker = FaultyBroker(random.Random(3))
        async with Pair(broker).connected() as pair:
            broker.partition("sender", 10)
            with pytest.raises(PublishTimeoutError):
                await pair.sender.publish("t/1", b"7", timeout=2)
            assert pair.heard == []
            await asyncio.sleep(30)
            return pair.heard

    assert run(main()) == [("t/1", 7)]


def test_what_a_killed_process_had_not_handed_over_is_gone():
    async def main():
        broker = FaultyBroker(random.Random(3))
        async with Pair(broker).connected() as pair:
            process = Process("x")

            async def life():
                async with FaultyBus(broker, client_id="x", will=Will("t/will", b"9")) as bus:
                    await bus.wait_connected(5)
                    broker.partition("x", 10)
                    await bus.publish("t/1", b"1")

            process.start(life())
            await asyncio.sleep(1)
            process.kill()
            await asyncio.sleep(60)
            return pair.heard

    assert run(main()) == [("t/will", 9)]


def test_a_newer_connection_of_the_same_client_ends_the_older_with_its_will():
    async def main():
        broker = FaultyBroker(random.Random(3))
        async with Pair(broker).connected() as pair, FaultyBus(broker, client_id="x", will=Will("t/w", b"1")) as first:
            await first.wait_connected(5)
            broker._away["x"] = 1e9  # the older one does not come back
            broker.connect(FaultyBus(broker, client_id="x"))
            await asyncio.sleep(1)
            assert not first.connected
            return pair.heard

    assert run(main()) == [("t/w", 1)]
