"""A database that survives its process: whole commits, or nothing of them."""

from __future__ import annotations

import asyncio
import random

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select

from swashplate.errors import UnavailableError
from swashplate.testing import Disk, Pace, Process, VirtualDatabase, run

METADATA = MetaData()
NUMBERS = Table("numbers", METADATA, Column("n", Integer, primary_key=True))


def disk() -> Disk:
    return Disk(lambda made: METADATA.create_all(made.engine))


def put(number):
    return lambda db: db.execute(insert(NUMBERS).values(n=number))


def all_numbers(db):
    return list(db.execute(select(NUMBERS.c.n)).scalars())


def database(on: Disk, **pace) -> VirtualDatabase:
    return VirtualDatabase(on, pace=Pace(**pace), source=random.Random(1))


def test_work_is_durable_when_it_returns_and_takes_time():
    async def main():
        on = disk()
        async with database(on) as first:
            await asyncio.gather(first.run(put(1)), first.run(put(2)))
            assert asyncio.get_running_loop().time() > 0
        async with database(on) as second:
            return await second.run(all_numbers)

    assert run(main()) == [1, 2]


@pytest.mark.parametrize(("at", "found"), [(0.5, []), (1.5, [1])])
def test_a_crash_before_the_commit_loses_the_work_and_after_it_does_not(at, found):
    async def main():
        on, process, told = disk(), Process("x"), []

        async def life():
            async with database(on, fastest_s=1, slowest_s=1) as it:
                await it.run(put(1))
                told.append(1)

        process.start(life())
        await asyncio.sleep(at)
        process.kill()
        await asyncio.sleep(10)
        assert told == []
        async with database(on) as again:
            return await again.run(all_numbers)

    assert run(main()) == found


def test_work_that_raises_leaves_nothing_and_harms_nobody_else():
    def fails(db):
        put(1)(db)
        raise ValueError("on purpose")

    async def main():
        async with database(disk()) as it:
            outcomes = await asyncio.gather(it.run(fails), it.run(put(2)), return_exceptions=True)
            assert isinstance(outcomes[0], ValueError)
            return await it.run(all_numbers)

    assert run(main()) == [2]


def test_a_full_disk_refuses_writes_and_answers_reads():
    async def main():
        on = disk()
        async with database(on) as it:
            await it.run(put(1))
            on.full(yes=True)
            with pytest.raises(UnavailableError):
                await it.run(put(2))
            assert await it.run(all_numbers) == [1]
            on.full(yes=False)
            await it.run(put(2))
            return await it.run(all_numbers)

    assert run(main()) == [1, 2]


def test_a_wiped_disk_is_as_it_was_made():
    async def main():
        on = disk()
        for _ in range(2):
            async with database(on) as it:
                await it.run(put(1))
            on.wipe()
        async with database(on) as it:
            return await it.run(all_numbers)

    assert run(main()) == []
