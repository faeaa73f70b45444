import asyncio
import threading

import pytest
from sqlalchemy import insert, text

from swashplate.database import Database, sqlite_url
from swashplate.errors import ConfigurationError, UnavailableError
from tests.support.toy_schema import SCHEMA, numbers


def opened(tmp_path):
    return Database(sqlite_url(tmp_path / "x.db"), SCHEMA)


async def add(database, n):
    await database.run(lambda db: db.execute(insert(numbers).values(n=n)))


async def all_numbers(database):
    return await database.run(lambda db: list(db.execute(text("SELECT n FROM numbers ORDER BY n")).scalars()))


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


async def test_commits_are_durable_not_only_consistent(tmp_path):
    async with opened(tmp_path) as database:
        assert await database.run(lambda db: db.execute(text("PRAGMA synchronous")).scalar()) == 2
        assert await database.run(lambda db: db.execute(text("PRAGMA journal_mode")).scalar()) == "wal"


async def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"x\.db"):
        async with opened(tmp_path):
            pass


async def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="missing"):
        async with opened(tmp_path / "missing"):
            pass
