"""What every database promises: each test runs on SQLite and on PostgreSQL."""

import asyncio
import sqlite3
import threading

import pytest
from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from swashplate.database import Bulk, Database, replacing
from swashplate.errors import ConfigurationError, ConflictError, UnavailableError
from tests.support.postgres import connect
from tests.support.toy_schema import SCHEMA, children, numbers


def opened(url):
    return Database(url, SCHEMA, patience_s=1)


async def add(database, n):
    await database.run(lambda db: db.execute(insert(numbers).values(n=n)))


async def all_numbers(database):
    return await database.run(lambda db: list(db.execute(select(numbers.c.n).order_by(numbers.c.n)).scalars()))


def seen_from_outside(url):
    """What another connection reads."""
    if url.get_backend_name() == "sqlite":
        with sqlite3.connect(url.database) as other:
            return {n for (n,) in other.execute("SELECT n FROM numbers")}
    with connect(url) as other:
        return {n for (n,) in other.execute("SELECT n FROM toy.numbers")}


async def together(database, *works):
    """The outcomes of works that share a commit: the thread is held until all of them wait."""
    held = threading.Event()
    first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
    rest = [asyncio.ensure_future(work) for work in works]
    await asyncio.sleep(0)
    held.set()
    await first
    return await asyncio.gather(*rest, return_exceptions=True)


async def test_what_was_written_is_there_after_reopening(database_url):
    async with opened(database_url) as database:
        await add(database, 1)
    async with opened(database_url) as database:
        assert await all_numbers(database) == [1]


async def test_failed_work_changes_nothing_and_its_error_reaches_the_one_who_asked(database_url):
    def work(db):
        db.execute(insert(numbers).values(n=1))
        raise ConflictError("no")

    async with opened(database_url) as database:
        with pytest.raises(ConflictError):
            await database.run(work)
        assert await all_numbers(database) == []


async def test_work_that_shares_a_commit_fails_and_succeeds_each_for_itself(database_url):
    def work(n):
        def write(db):
            db.execute(insert(numbers).values(n=n))
            if n % 3 == 1:
                raise ConflictError(str(n))
            if n % 3 == 2:
                db.execute(insert(numbers).values(n=n))  # the database's own refusal
            return n

        return write

    async with opened(database_url) as database:
        found = await together(database, *(database.run(work(n)) for n in range(21)))
        assert [n for n, outcome in enumerate(found) if outcome == n] == list(range(0, 21, 3))
        assert all(isinstance(outcome, Exception) for n, outcome in enumerate(found) if n % 3)
        assert await all_numbers(database) == list(range(0, 21, 3))


async def test_work_that_waits_shares_one_commit(database_url):
    """All of a group read the same transaction's snapshot of what each wrote before."""

    def work(n):
        def write(db):
            db.execute(insert(numbers).values(n=n))
            return len(seen_from_outside(database_url)), len(db.execute(select(numbers.c.n)).all())

        return write

    async with opened(database_url) as database:
        found = await together(database, *(database.run(work(n)) for n in range(5)))
        assert found == [(0, count) for count in range(1, 6)]
    assert seen_from_outside(database_url) == set(range(5))


async def test_nobody_hears_of_success_before_the_commit(database_url):
    async with opened(database_url) as database:
        for n in range(20):
            await add(database, n)
            assert n in seen_from_outside(database_url)


async def test_a_commit_that_fails_hurts_only_the_work_that_caused_it(database_url):
    """A foreign key that is checked at the commit."""
    async with opened(database_url) as database:
        orphan = database.run(lambda db: db.execute(insert(children).values(n=99)))
        found = await together(database, add(database, 1), orphan, add(database, 2))
        assert [isinstance(outcome, Exception) for outcome in found] == [False, True, False]
        assert await all_numbers(database) == [1, 2]


async def test_an_error_that_work_hides_does_not_pass_for_success(database_url):
    """PostgreSQL turns the commit of a transaction that has failed into a rollback, without a word."""

    def work(db):
        db.execute(insert(numbers).values(n=1))
        try:
            db.execute(insert(numbers).values(n=1))
        except IntegrityError:
            return "done"

    async with opened(database_url) as database:
        try:
            assert await database.run(work) == "done"
        except UnavailableError:
            assert await all_numbers(database) == []
        else:
            assert await all_numbers(database) == [1]


async def test_when_the_thread_has_ended_nobody_waits_for_ever(database_url):
    def leave(_):
        raise SystemExit

    async with opened(database_url) as database:
        asked = asyncio.ensure_future(database.run(leave))
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asked, 10)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(add(database, 1), 10)


async def test_a_caller_that_gave_up_does_not_disturb_the_others(database_url):
    held = threading.Event()
    async with opened(database_url) as database:
        first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
        given_up = asyncio.ensure_future(add(database, 1))
        kept = asyncio.ensure_future(add(database, 2))
        await asyncio.sleep(0)
        given_up.cancel()
        held.set()
        await asyncio.gather(first, kept)
        assert 2 in await all_numbers(database)


async def test_only_one_at_a_time_uses_a_database(database_url):
    async with opened(database_url) as database:
        with pytest.raises(ConfigurationError, match="another toy uses the database"):
            async with opened(database_url):
                pass
        await add(database, 1)
    async with opened(database_url) as database:
        assert await all_numbers(database) == [1]


async def test_whoever_waits_gets_the_database_when_it_is_free(database_url):
    """A process that is restarted does not fail because its predecessor's last moment has not passed."""
    if database_url.get_backend_name() == "sqlite":
        return  # the lock ends with the process
    async with opened(database_url):
        waiting = asyncio.ensure_future(Database(database_url, SCHEMA, patience_s=10).__aenter__())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
    second = await waiting
    await add(second, 1)
    await second.__aexit__()


async def test_rows_are_inserted_or_replaced(database_url):
    async with opened(database_url) as database:
        written, of_one_column = replacing(numbers), replacing(children)
        await database.run(lambda db: written.execute(db, [(1, "one"), (2, "two")]))
        await database.run(lambda db: written.execute(db, [(2, None), (3, "x")]))
        await database.run(lambda db: written.execute(db, []))
        await database.run(lambda db: of_one_column.execute(db, [(1,)]))
        await database.run(lambda db: of_one_column.execute(db, [(1,)]))
        found = await database.run(lambda db: db.execute(select(numbers).order_by(numbers.c.n)).all())
        assert [tuple(row) for row in found] == [(1, "one"), (2, None), (3, "x")]


async def test_rows_whose_values_stand_in_another_order_than_in_the_statement_are_not_written(database_url):
    """SET comes before WHERE: the other order would put each value into the other's place."""

    def renamed(_dialect):
        return update(numbers).where(numbers.c.n == bindparam("wanted")).values(word=bindparam("called"))

    async with opened(database_url) as database:
        await database.run(lambda db: replacing(numbers).execute(db, [(1, "one"), (2, "two")]))
        with pytest.raises(AssertionError):
            await database.run(lambda db: Bulk(["wanted", "called"], renamed).execute(db, [(1, "uno")]))
        await database.run(lambda db: Bulk(["called", "wanted"], renamed).execute(db, [("uno", 1), ("due", 2)]))
        found = await database.run(lambda db: db.execute(select(numbers).order_by(numbers.c.n)).all())
        assert [tuple(row) for row in found] == [(1, "uno"), (2, "due")]


@pytest.mark.parametrize("word", ["", "a'b\\", "\\x00", "größer 🚁", "x" * 1_000_000])
async def test_text_comes_back_as_it_went_in(database_url, word):
    async with opened(database_url) as database:
        await database.run(lambda db: db.execute(insert(numbers).values(n=1, word=word)))
        found = await database.run(lambda db: db.execute(select(numbers.c.n).where(numbers.c.word == word)).all())
        assert len(found) == 1


async def test_a_nul_in_a_text_is_no_reason_to_lose_the_text(database_url):
    async with opened(database_url) as database:
        await database.run(lambda db: db.execute(insert(numbers).values(n=1, word="a\0b")))
        found = await database.run(lambda db: db.execute(select(numbers.c.word)).scalar())
        assert found in {"a\0b", "a\ufffdb"}


async def test_an_error_says_nothing_of_what_was_written(database_url):
    async with opened(database_url) as database:
        await add(database, 1)
        with pytest.raises(Exception, match="numbers") as refused:
            await database.run(lambda db: db.execute(insert(numbers).values(n=1, word="a secret")))
        assert "a secret" not in str(refused.value)


async def test_the_health_check_asks_the_database(database_url):
    async with opened(database_url) as database:
        await database.check()
        await database.run(lambda db: db.execute(text("SELECT 1")))
    with pytest.raises(UnavailableError):
        await database.check()
