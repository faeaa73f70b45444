"""What guests write to stderr is read while they run, at a bounded cost, and what is missing is told."""

from __future__ import annotations

import asyncio

import pytest

from manager import log_file
from manager.log_file import Part, from_offset
from proplet.sandbox.frames import LOGGED_BYTES
from proplet.work.outgoing import Ref
from proplet.work.task_logs import BURST, MOST_IN_MESSAGE, RATE, LogStream, TaskLogs
from swashplate.bus import MemoryBus
from swashplate.errors import NotFoundError
from swashplate.messages import TaskLog
from swashplate.topics import Topics
from tests.proplet.conftest import prints

NAMES = Topics("d", "c")
SAYS_AND_WAITS = prints("première ligne\n", to=2, then="(loop $again (br $again))")


def flood(count: int) -> str:
    """A command that writes a line of 64 bytes to stderr so often."""
    line = "x" * 63 + "\\0a"
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 64) "{line}")
      (func (export "_start") (local $n i32)
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 64))
        (loop $again
          (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const {count}))))))"""


async def text_of(client, task_id: str, **which) -> str:
    return "".join([part.text async for part in client.tasks.logs(task_id, **which)])


async def test_a_log_is_read_while_the_task_runs_and_after_it_and_goes_with_it(both, client):
    async with both.manager() as manager, both.proplet():
        task = await both.launch(client, SAYS_AND_WAITS)
        first = await client.tasks.log(task.id, wait=20)
        assert (first.text, first.offset, first.dropped, first.ended) == ("première ligne\n", 0, 0, False)
        assert first.proplet_id == "p1"
        more = asyncio.create_task(client.tasks.log(task.id, offset=first.next_offset, wait=20))
        await client.tasks.stop(task.id)
        rest = await more
        assert (rest.text, rest.ended) == ("", True)
        assert await text_of(client, task.id, follow=False) == "première ligne\n"
        with pytest.raises(NotFoundError):
            await client.tasks.log(task.id, attempt=7)
        await client.tasks.wait(task.id, timeout=20)
        await client.tasks.delete(task.id)

        async def gone() -> bool:
            return not list((both.folder / "manager" / "attempts").glob("*"))

        await both.until(gone)
    assert manager


async def test_a_log_survives_the_manager_and_what_was_said_meanwhile_is_a_gap(both, client):
    async with both.manager(), both.proplet():
        task = await both.ended(client, prints("kept\n", to=2))
        assert await text_of(client, task.id) == "kept\n"
    async with both.manager():
        assert await text_of(client, task.id) == "kept\n"


def says_later(seconds: float) -> str:
    """``one``, and after so many seconds ``two``, and then nothing for ever."""
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 64) "one\\0atwo\\0a")
      (func $say (param $at i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (i32.const 4))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16))))
      (func (export "_start")
        (call $say (i32.const 64))
        (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const {int(seconds * 1e9)}))
        (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)))
        (call $say (i32.const 68))
        (loop $again (br $again))))"""


async def test_what_a_guest_says_while_the_manager_is_away_is_told_when_it_is_back(both, client, logged):
    async with both.proplet():
        async with both.manager():
            task = await both.launch(client, says_later(1))
            assert (await client.tasks.log(task.id, wait=20)).text == "one\n"
        await logged.until("two")
        async with both.manager():
            text = ""
            async with asyncio.timeout(20):
                async for part in client.tasks.logs(task.id):
                    text += part.text
                    if "two" in text:
                        break
            assert (text, part.dropped) == ("one\ntwo\n", 0)
            await client.tasks.stop(task.id)
            await client.tasks.wait(task.id, timeout=20)


async def test_a_flood_costs_a_bounded_amount_and_says_what_is_missing(both, client):
    lines = 3 * LOGGED_BYTES // 64
    async with both.manager(), both.proplet():
        task = await both.ended(client, flood(lines))
        parts = [part async for part in client.tasks.logs(task.id)]
        assert task.status == "completed", task.error
        assert sum(len(part.text) + part.dropped for part in parts) == 64 * lines
        assert sum(len(part.text) for part in parts) <= LOGGED_BYTES + 1
        assert parts[-1].dropped > 0
    [log] = (both.folder / "manager" / "attempts").glob("*/1")
    assert sum(file.stat().st_size for file in log.iterdir()) < 2 * LOGGED_BYTES


async def test_a_broadcast_has_a_log_for_each_proplet(both, client):
    async with both.manager(), both.proplet("p1"), both.proplet("p2"):

        async def alive() -> bool:
            return len([each for each in (await client.proplets.list()).items if each.alive]) == 2

        await both.until(alive)
        task = await both.ended(client, prints("here\n", to=2), broadcast=True)
        found = [await client.tasks.log(task.id, attempt=number) for number in (1, 2)]
        assert {part.proplet_id: part.text for part in found} == {"p1": "here\n", "p2": "here\n"}


async def test_the_calls_of_a_latent_task_are_one_log(both, client):
    async with both.manager(), both.proplet():
        task = await both.launch(client, prints("called\n", to=2), latent=True)
        await client.tasks.ready(task.id, timeout=20)
        for _ in range(2):
            await client.tasks.invoke(task.id)

        async def both_calls() -> bool:
            return await text_of(client, task.id, follow=False) == "called\ncalled\n"

        await both.until(both_calls)
        await client.tasks.stop(task.id)


async def test_only_who_has_the_attempt_writes_its_log(both, client):
    async with both.manager(), both.proplet():
        task = await both.launch(client, SAYS_AND_WAITS)
        assert (await client.tasks.log(task.id, wait=20)).text == "première ligne\n"
        async with MemoryBus(both.broker, client_id="p2") as bus:
            for claimed in ("p1", "p2"):
                said = TaskLog(task_id=task.id, attempt=1, proplet_id=claimed, offset=100, size=6, text="forged")
                await bus.publish(NAMES.proplet("p2", "logs"), said.encode())
        await client.tasks.stop(task.id)
        assert await text_of(client, task.id) == "première ligne\n"


async def test_of_all_logs_together_the_oldest_go_first(both, client):
    both.settings["MANAGER_LOG_BYTES"] = "8192"
    async with both.manager(), both.proplet():
        tasks = [await both.ended(client, prints(f"task {n}\n", to=2)) for n in range(4)]

        async def newest() -> bool:
            return [await text_of(client, task.id) for task in tasks] == ["", "", "task 2\n", "task 3\n"]

        await both.until(newest)


# The stream at the proplet.


class Told:
    """In the place of the bus."""

    connected = True

    def __init__(self) -> None:
        self.logs: list[TaskLog] = []

    def post(self, _topic, payload, **_options) -> None:
        self.logs.append(TaskLog.decode(payload))


@pytest.fixture
def told():
    return Told()


async def stream_of(told) -> tuple[LogStream, list[float]]:
    now = [0.0]
    return TaskLogs(told, NAMES, "p1", clock=lambda: now[0]).of(Ref("t", 1)), now


async def test_a_character_is_never_cut_and_what_is_none_is_replaced(told):
    stream, _ = await stream_of(told)
    for piece in ("é".encode() * MOST_IN_MESSAGE, b"\xff", b"\xe2\x82"):
        stream.feed(piece)
    before = stream.taken(final=False)
    after = stream.taken(final=True)
    assert "".join(said.text for said in before) == "é" * MOST_IN_MESSAGE + "\ufffd"
    assert [(said.text, said.size) for said in after] == [("\ufffd", 2)]
    sizes = [said.size for said in (*before, *after)]
    assert [said.offset for said in (*before, *after)] == [sum(sizes[:n]) for n in range(len(sizes))]


async def test_after_a_burst_so_much_a_second_is_sent_and_the_rest_is_counted(told):
    stream, now = await stream_of(told)
    stream.feed(b"a" * (BURST + 5000))
    stream.feed(b"b" * 100)
    stream.flush()
    now[0] = 1.0
    stream.feed(b"c" * (2 * RATE))
    stream.skip(10)
    stream.flush()
    text = "".join(said.text for said in told.logs)
    assert {letter: text.count(letter) for letter in "abc"} == {"a": BURST, "b": 0, "c": RATE}
    assert next(said.offset for said in told.logs if "c" in said.text) == BURST + 5100
    assert (told.logs[-1].text, told.logs[-1].offset) == ("", BURST + 5100 + 2 * RATE + 10)
    assert all(said.size <= MOST_IN_MESSAGE for said in told.logs)


# The file at the manager.


def test_the_first_and_the_last_of_a_long_log_are_kept(tmp_path):
    text = b"y" * 10_000
    for n in range(200):
        size = log_file.append(tmp_path, [Part(n * 10_000, 10_000, text)])
        assert size < log_file.HEAD_BYTES + 2 * log_file.TURN_BYTES + 30_000
    first = from_offset(log_file.read(tmp_path), 0, 1 << 20)
    last = from_offset(log_file.read(tmp_path), first.end, 1 << 20)
    assert (first.offset, last.end) == (0, 2_000_000)
    assert last.offset > first.end
    assert last.end - last.offset > log_file.TURN_BYTES


def test_a_part_that_a_crash_cut_off_is_forgotten_and_the_log_goes_on(tmp_path):
    log_file.append(tmp_path, [Part(0, 3, b"one"), Part(3, 3, b"two")])
    path = tmp_path / log_file.BEGINNING
    path.write_bytes(path.read_bytes()[:-1])
    log_file.mend(tmp_path)
    log_file.append(tmp_path, [Part(6, 5, b"three")])
    assert from_offset(log_file.read(tmp_path), 0, 1000) == (0, 3, b"one")
    assert from_offset(log_file.read(tmp_path), 3, 1000) == (6, 11, b"three")


@pytest.mark.parametrize(
    ("offset", "found"), [(0, (0, 6, b"abcdef")), (2, (2, 6, b"cdef")), (6, (9, 12, b"xyz")), (12, (12, 12, b""))]
)
def test_a_log_is_read_from_anywhere_up_to_the_next_gap(offset, found):
    parts = [Part(0, 3, b"abc"), Part(3, 3, b"def"), Part(9, 3, b"xyz")]
    assert from_offset(parts, offset, 1000) == found


def test_what_was_dropped_at_the_end_is_told():
    assert from_offset([Part(0, 3, b"abc"), Part(9, 0, b"")], 3, 1000) == (9, 9, b"")
