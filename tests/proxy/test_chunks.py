"""Which chunks are published when, and that they are the binary's bytes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chunks import REPEAT_SECONDS, ChunkPlan, ChunkStreams, Sendable, check_indexes, chunk_count
from swashplate.blobs import sha256_digest
from swashplate.bus import MemoryBroker, MemoryBus
from swashplate.errors import InvalidRequestError
from swashplate.messages import digest_hex
from swashplate.topics import Topics, last_level

TOPICS = Topics("domain", "channel")
CHUNK = 1000
GATHER, REPEAT = 0.01, 0.1

requests = st.lists(
    st.tuples(st.floats(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=12)), min_size=1, max_size=20
)


def play(wanted: list[tuple[float, list[int]]]) -> list[tuple[float, int]]:
    """What a stream that is never held up publishes, and when."""
    plan, published = ChunkPlan(gather=GATHER, repeat=REPEAT), []

    def publish_until(end: float) -> None:
        while plan.due is not None and plan.due <= end:
            at = plan.due
            published.append((at, plan.take(at)))

    for at, indexes in sorted(wanted):
        publish_until(at)
        plan.want(indexes, at)
    publish_until(float("inf"))
    return published


@given(requests)
def test_every_wanted_chunk_is_published_after_it_was_wanted_and_soon(wanted):
    published = play(wanted)
    for at, indexes in wanted:
        for index in indexes:
            assert any(i == index and at <= when <= at + GATHER + REPEAT for when, i in published)


@given(requests)
def test_no_chunk_is_published_twice_within_the_repeat_time(wanted):
    last: dict[int, float] = {}
    for at, index in play(wanted):
        assert index not in last or at - last[index] >= REPEAT - 1e-9
        last[index] = at


@given(st.lists(st.lists(st.integers(0, 50), max_size=60), min_size=1, max_size=8), st.floats(0, GATHER / 10))
def test_requests_that_arrive_together_are_merged_in_order(lists, gap):
    published = play([(i * gap, indexes) for i, indexes in enumerate(lists)])
    assert sorted(i for _, i in published) == sorted({i for indexes in lists for i in indexes})


@given(requests)
def test_nothing_is_published_that_nobody_wanted(wanted):
    assert {i for _, i in play(wanted)} == {i for _, indexes in wanted for i in indexes}


def test_a_chunk_is_not_given_out_before_its_time():
    plan = ChunkPlan(gather=GATHER)
    with pytest.raises(ValueError, match="no chunk is due"):
        plan.take(0)
    plan.want([1], 0)
    with pytest.raises(ValueError, match="no chunk is due"):
        plan.take(GATHER / 2)
    assert plan.take(GATHER) == 1


def test_while_chunks_go_out_what_else_is_wanted_does_not_wait():
    plan = ChunkPlan(gather=GATHER)
    plan.want([1], 0)
    plan.take(GATHER)
    plan.want([2], 2 * GATHER)
    assert plan.due == 2 * GATHER


@given(st.integers(0, 10**7), st.integers(1, 10**6))
def test_chunks_cover_the_binary_exactly(size, chunk_size):
    count = chunk_count(size, chunk_size)
    assert (count - 1) * chunk_size < size <= count * chunk_size or size == count == 0


@pytest.mark.parametrize("wrong", [-1, 3, 10**12])
def test_an_index_that_the_binary_does_not_have_is_named(wrong):
    check_indexes([0, 1, 2], 3)
    with pytest.raises(InvalidRequestError, match=f"{wrong} is not between 0 and 2"):
        check_indexes([0, wrong], 3)


class Listener:
    """Collects what a proplet would see of one binary."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, bytes]] = []

    async def take(self, received) -> None:
        self.chunks.append((int(last_level(received.topic)), received.payload))


@pytest.fixture
async def sent(tmp_path):
    content = bytes(range(256)) * 39 + b"end"
    path = tmp_path / "binary"
    path.write_bytes(content)
    binary = Sendable(sha256_digest(content), path, len(content), CHUNK, "app:v1")
    broker, listener = MemoryBroker(), Listener()
    async with MemoryBus(broker, client_id="proplet") as reader, MemoryBus(broker, client_id="proxy") as bus:
        await reader.subscribe(TOPICS.chunks_of(digest_hex(binary.digest)), listener.take, qos=0)
        streams = ChunkStreams(bus, TOPICS)
        yield binary, content, streams, listener
        await streams.close()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_chunks_of_a_binary_are_its_bytes(sent):
    binary, content, streams, listener = sent
    await streams.send(binary, range(binary.chunks))
    await until(lambda: len(listener.chunks) == binary.chunks)
    assert b"".join(chunk for _, chunk in sorted(listener.chunks)) == content


async def test_two_who_ask_together_are_served_by_one_publish(sent):
    binary, _, streams, listener = sent
    await asyncio.gather(streams.send(binary, [0, 1, 2]), streams.send(binary, [2, 3]), streams.send(binary, [0]))
    await until(lambda: len(listener.chunks) >= 4)
    assert sorted(index for index, _ in listener.chunks) == [0, 1, 2, 3]


async def test_one_who_asks_right_after_a_publish_is_served_too(sent):
    binary, _, streams, listener = sent
    began = asyncio.get_running_loop().time()
    await streams.send(binary, [1])
    await streams.send(binary, [1])
    assert asyncio.get_running_loop().time() - began >= REPEAT_SECONDS
    await until(lambda: len(listener.chunks) == 2)


async def test_a_chunk_that_waits_for_its_repetition_does_not_hold_up_another(sent):
    binary, _, streams, listener = sent
    streams = ChunkStreams(streams._bus, TOPICS, new_plan=lambda: ChunkPlan(gather=0, repeat=3600))
    await streams.send(binary, [1])
    waiting = [asyncio.create_task(streams.send(binary, [1]))]
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(streams.send(binary, [2])))
    await until(lambda: len(listener.chunks) == 2)
    assert [index for index, _ in listener.chunks] == [1, 2]
    await streams.close()
    await asyncio.gather(*waiting, return_exceptions=True)


class HeldBus(MemoryBus):
    """A broker that takes nothing before it is released."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, client_id="held")
        self.holding, self.release = asyncio.Event(), asyncio.Event()

    async def _publish(self, *args, **options) -> None:
        self.holding.set()
        await self.release.wait()
        await super()._publish(*args, **options)


async def test_what_is_asked_for_while_the_broker_is_slow_is_sent_afterwards(sent):
    binary, _, _, listener = sent
    broker = MemoryBroker()
    async with MemoryBus(broker, client_id="proplet") as reader, HeldBus(broker) as bus:
        await reader.subscribe(TOPICS.chunks_of(digest_hex(binary.digest)), listener.take, qos=0)
        streams = ChunkStreams(bus, TOPICS, new_plan=lambda: ChunkPlan(gather=0, repeat=0))  # remembers nothing
        first = asyncio.create_task(streams.send(binary, [0]))
        await bus.holding.wait()
        second = asyncio.create_task(streams.send(binary, [1]))
        await asyncio.sleep(0)
        bus.release.set()
        await asyncio.gather(first, second)
        await until(lambda: len(listener.chunks) == 2)
        await streams.close()


async def test_a_binary_that_was_cut_on_disk_ends_the_stream_and_the_next_one_works(sent):
    from swashplate.errors import IntegrityError

    binary, content, streams, listener = sent
    binary.path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match="cut short"):
        await streams.send(binary, [binary.chunks - 1])
    binary.path.write_bytes(content)
    await streams.send(binary, [0])
    await until(lambda: len(listener.chunks) == 1)
