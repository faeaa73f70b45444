import asyncio
import threading

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, insert, select, text

from swashplate.database import Database, sqlite_url
from swashplate.errors import ConfigurationError, ConflictError, UnavailableError

metadata = MetaData()
numbers = Table("numbers", metadata, Column("n", Integer, primary_key=True))


def opened(tmp_path, version=1):
    return Database(sqlite_url(tmp_path / "x.db"), metadata, version=version)


async def add(database, n):
    await database.run(lambda db: db.execute(insert(numbers).values(n=n)))


async def all_numbers(database):
    return await database.run(lambda db: list(db.execute(select(numbers.c.n).order_by(numbers.c.n)).scalars()))


async def test_what_was_written_is_there_after_reopening(tmp_path):
    async with opened(tmp_path) as database:
        await add(database, 1)
    async with opened(tmp_path) as database:
        assert await all_numbers(database) == [1]


async def test_failed_work_changes_nothing_and_its_error_reaches_the_one_who_asked(tmp_path):
    def work(db):
        db.execute(insert(numbers).values(n=1))
        raise ConflictError("no")

    async with opened(tmp_path) as database:
        with pytest.raises(ConflictError):
            await database.run(work)
        assert await all_numbers(database) == []


async def test_work_that_shares_a_commit_fails_and_succeeds_each_for_itself(tmp_path):
    """The first work holds the thread until the others wait, so that they are committed together."""
    held = threading.Event()

    def work(n):
        def write(db):
            db.execute(insert(numbers).values(n=n))
            if n % 2:
                raise ConflictError(str(n))
            return n

        return write

    async with opened(tmp_path) as database:
        first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
        rest = [asyncio.ensure_future(database.run(work(n))) for n in range(20)]
        await asyncio.sleep(0)
        held.set()
        await first
        found = await asyncio.gather(*rest, return_exceptions=True)
        assert [n if isinstance(n, int) else int(str(n)) for n in found] == list(range(20))
        assert await all_numbers(database) == list(range(0, 20, 2))


async def test_nobody_hears_of_success_before_the_commit(tmp_path):
    """Another connection sees what was written as soon as it was confirmed."""
    async with opened(tmp_path) as database, opened(tmp_path) as other:
        for n in range(20):
            await add(database, n)
            assert n in await all_numbers(other)


async def test_a_full_disk_is_unavailable_not_broken_and_passes(tmp_path):
    def fill(db):
        db.execute(insert(numbers), [{"n": n} for n in range(10_000)])

    def pages(limit):
        return lambda db: db.execute(text(f"PRAGMA max_page_count={limit}"))

    async with opened(tmp_path) as database:
        await database.run(pages(1))  # SQLite rounds up to what there is
        with pytest.raises(UnavailableError, match="full"):
            await database.run(fill)
        await database.run(pages(100_000))
        await database.run(fill)
        assert len(await all_numbers(database)) == 10_000


async def test_when_the_disk_is_full_nobody_in_the_group_is_told_of_what_was_undone(tmp_path):
    held = threading.Event()

    def fill(db):
        db.execute(insert(numbers), [{"n": n} for n in range(100, 10_100)])

    async with opened(tmp_path) as database:
        await database.run(lambda db: db.execute(text("PRAGMA max_page_count=1")))
        first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
        rest = [asyncio.ensure_future(work) for work in (add(database, 1), database.run(fill), add(database, 2))]
        await asyncio.sleep(0)
        held.set()
        await first
        found = await asyncio.gather(*rest, return_exceptions=True)
        confirmed = [n for n, outcome in zip((1, None, 2), found, strict=True) if outcome is None]
        assert isinstance(found[1], UnavailableError)
        assert await all_numbers(database) == confirmed == [1, 2]


children = Table(
    "children", metadata, Column("n", Integer, ForeignKey("numbers.n", deferrable=True, initially="DEFERRED"))
)


async def test_a_commit_that_fails_hurts_only_the_work_that_caused_it(tmp_path):
    held = threading.Event()

    async with opened(tmp_path) as database:
        first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
        orphan = database.run(lambda db: db.execute(insert(children).values(n=99)))
        rest = [asyncio.ensure_future(work) for work in (add(database, 1), orphan, add(database, 2))]
        await asyncio.sleep(0)
        held.set()
        await first
        found = await asyncio.gather(*rest, return_exceptions=True)
        assert [isinstance(outcome, Exception) for outcome in found] == [False, True, False]
        assert await all_numbers(database) == [1, 2]


async def test_when_the_thread_has_ended_nobody_waits_for_ever(tmp_path):
    def leave(_):
        raise SystemExit

    async with opened(tmp_path) as database:
        asked = asyncio.ensure_future(database.run(leave))
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asked, 10)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(add(database, 1), 10)


async def test_commits_are_durable_not_only_consistent(tmp_path):
    async with opened(tmp_path) as database:
        assert await database.run(lambda db: db.execute(text("PRAGMA synchronous")).scalar()) == 2
        assert await database.run(lambda db: db.execute(text("PRAGMA journal_mode")).scalar()) == "wal"


async def test_an_older_program_refuses_a_newer_database(tmp_path):
    async with opened(tmp_path, version=2):
        pass
    with pytest.raises(ConfigurationError, match="has schema 2"):
        async with opened(tmp_path, version=1):
            pass


async def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"x\.db"):
        async with opened(tmp_path):
            pass


async def test_a_caller_that_gave_up_does_not_disturb_the_others(tmp_path):
    held = threading.Event()
    async with opened(tmp_path) as database:
        first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
        given_up = asyncio.ensure_future(add(database, 1))
        kept = asyncio.ensure_future(add(database, 2))
        await asyncio.sleep(0)
        given_up.cancel()
        held.set()
        await asyncio.gather(first, kept)
        assert 2 in await all_numbers(database)
