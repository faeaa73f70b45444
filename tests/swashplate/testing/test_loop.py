"""Virtual time: no waiting, the same order every time, no threads, and processes that end between two steps."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid

import pytest

from swashplate.testing import EPOCH, Process, StalledError, run, virtual_loop, virtual_machine


def test_an_hour_passes_at_once():
    async def main():
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - began

    real = time.perf_counter()
    assert run(main()) == 3600
    assert time.perf_counter() - real < 60


def test_timers_run_in_the_order_of_their_times():
    async def main():
        seen = []
        loop = asyncio.get_running_loop()
        for delay in (3, 1, 2):
            loop.call_later(delay, lambda delay=delay: seen.append((loop.time(), delay)))
        loop.call_later(1.5, seen.append, "cancelled").cancel()
        await asyncio.sleep(4)
        return seen

    assert run(main()) == [(1, 1), (2, 2), (3, 3)]


def test_a_timeout_of_asyncio_counts_virtual_seconds():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main(), start=5) == 105


def test_waiting_for_what_nobody_will_do_is_an_error():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(StalledError, match="nothing is left to happen"):
        run(main())


def test_spinning_without_time_is_an_error():
    async def main():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StalledError, match="spins"):
        run(main())


def test_work_for_a_thread_is_done_on_the_spot():
    async def main():
        return await asyncio.to_thread(threading.get_ident)

    assert run(main()) == threading.get_ident()


def test_a_thread_that_wakes_the_loop_is_refused():
    async def main():
        with pytest.raises(RuntimeError, match="a thread wakes the virtual loop"):
            asyncio.get_running_loop().call_soon_threadsafe(print)

    run(main())


def test_there_are_no_sockets():
    async def main():
        with pytest.raises(NotImplementedError):
            await asyncio.get_running_loop().sock_connect(None, None)

    run(main())


def test_clock_and_randomness_of_the_machine_follow_from_loop_and_seed():
    def once(seed):
        with virtual_loop() as loop, virtual_machine(loop, random.Random(seed)):

            async def main():
                await asyncio.sleep(10)
                return time.time(), time.monotonic(), uuid.uuid4(), random.random()

            return loop.run_until_complete(main())

    first = once(1)
    assert first[:2] == (EPOCH + 10, 10)
    assert once(1) == first
    assert once(2)[2:] != first[2:]
    assert time.time() != EPOCH


def test_real_sleep_is_refused_while_time_is_virtual():
    with virtual_loop() as loop, virtual_machine(loop, random.Random(1)), pytest.raises(RuntimeError, match="asyncio"):
        time.sleep(1)


def test_nothing_of_a_killed_process_runs_any_more():
    seen = []

    async def child():
        try:
            await asyncio.sleep(2)
            seen.append("child")
        finally:
            seen.append("cleaned up")

    async def parent():
        loop = asyncio.get_running_loop()
        loop.call_later(2, seen.append, "timer")
        asyncio.create_task(child()).add_done_callback(lambda _: seen.append("callback"))
        await asyncio.sleep(1)
        seen.append("begun")
        await asyncio.sleep(1)
        seen.append("parent")

    async def main():
        process, other = Process("x"), Process("y")
        process.start(parent())
        asyncio.get_running_loop().call_later(2, seen.append, "another's timer")
        other.start(asyncio.sleep(2)).add_done_callback(lambda _: seen.append("another's task"))
        await asyncio.sleep(1.5)
        process.kill()
        await asyncio.sleep(10)
        return list(seen)

    assert run(main()) == ["begun", "another's timer", "another's task"]


def test_what_wakes_a_killed_process_from_outside_finds_nobody():
    seen = []

    async def waits(event):
        await event.wait()
        seen.append("woken")

    async def main():
        process, event = Process("x"), asyncio.Event()
        process.start(waits(event))
        await asyncio.sleep(1)
        process.kill()
        event.set()
        await asyncio.sleep(1)
        [task] = process.tasks
        assert not task.done()

    run(main())
    assert seen == []


def test_a_process_has_what_is_called_in_it():
    async def main():
        process = Process("x")
        task = process.call(lambda: asyncio.get_running_loop().create_task(asyncio.sleep(1)))
        process.kill()
        await asyncio.sleep(2)
        return task.done()

    assert run(main()) is False
