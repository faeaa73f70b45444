import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, text

from swashplate.database import Database, sqlite_url
from swashplate.errors import ConfigurationError

metadata = MetaData()
numbers = Table("numbers", metadata, Column("n", Integer, primary_key=True))


def opened(tmp_path, version=1):
    return Database(sqlite_url(tmp_path / "x.db"), metadata, version=version)


async def all_numbers(database):
    async with database.transaction() as db:
        return list((await db.execute(select(numbers.c.n).order_by(numbers.c.n))).scalars())


async def test_what_a_transaction_wrote_is_there_after_reopening(tmp_path):
    async with opened(tmp_path) as database, database.transaction() as db:
        await db.execute(insert(numbers).values(n=1))
    async with opened(tmp_path) as database:
        assert await all_numbers(database) == [1]


async def test_a_failed_transaction_changes_nothing(tmp_path):
    async with opened(tmp_path) as database:
        with pytest.raises(RuntimeError):
            async with database.transaction() as db:
                await db.execute(insert(numbers).values(n=1))
                raise RuntimeError
        assert await all_numbers(database) == []


async def test_commits_are_durable_not_only_consistent(tmp_path):
    async with opened(tmp_path) as database, database.transaction() as db:
        assert (await db.execute(text("PRAGMA synchronous"))).scalar() == 2
        assert (await db.execute(text("PRAGMA journal_mode"))).scalar() == "wal"


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
