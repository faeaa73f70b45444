"""What can happen to a database that is a server: it is killed, restarted, cut off, full, or somebody else's."""

import asyncio
import threading
import time

import pytest
from sqlalchemy import event, insert, select, text

from swashplate.database import Database, database_url
from swashplate.errors import ConfigurationError, UnavailableError
from tests.support.postgres import PASSWORD, Postgres, connect
from tests.support.toy_schema import SCHEMA, numbers

PATIENCE = 30


def opened(url, patience_s=1.0):
    return Database(url, SCHEMA, patience_s=patience_s)


async def add(database, n):
    await database.run(lambda db: db.execute(insert(numbers).values(n=n)))


async def all_numbers(database):
    return await database.run(lambda db: list(db.execute(select(numbers.c.n).order_by(numbers.c.n)).scalars()))


async def until(answers):
    """What ``answers`` returns, once the database is back."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await answers()
        except UnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def mortal_server(postgres_programs):
    with Postgres(postgres_programs) as server:
        yield server


@pytest.fixture
def killable(mortal_server):
    """A server that a test may stop and kill."""
    if not mortal_server.running:
        mortal_server.start()
    yield mortal_server
    mortal_server.reclaim()


@pytest.mark.parametrize("restarted", [True, False])
async def test_killed_under_load_it_keeps_exactly_what_was_confirmed(killable, restarted):
    """Every number is tried until it is confirmed; one that failed must not be there before it is tried again."""
    confirmed, refused, uncertain = set(), set(), set()
    end = asyncio.Event()

    async def write(database, numbers_of_mine):
        for n in numbers_of_mine:
            if end.is_set():
                return
            try:
                await add(database, n)
                confirmed.add(n)
            except UnavailableError as error:
                (uncertain if error.code == "database_uncertain" else refused).add(n)
                await asyncio.sleep(0.005)

    async with opened(killable.new_database(), patience_s=PATIENCE if restarted else 0.2) as database:
        writers = [asyncio.create_task(write(database, range(k, 10**6, 8))) for k in range(8)]
        for _ in range(2):
            goal = len(confirmed) + 60
            deadline = time.monotonic() + PATIENCE
            while len(confirmed) < goal:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)
            killable.kill()
            if not restarted:
                await asyncio.sleep(0.4)  # longer than anybody waits to hear what became of a commit
            await asyncio.to_thread(killable.start)
        await until(database.check)
        end.set()
        await asyncio.gather(*writers)
        there = set(await all_numbers(database))
    assert len(confirmed) >= 120
    assert confirmed <= there
    assert not refused & there
    assert there <= confirmed | uncertain
    assert not (restarted and uncertain)


async def test_work_in_progress_is_done_again_when_the_connection_breaks(postgres_server):
    """A fire wall that forgets an idle connection is nobody's failure."""
    url = postgres_server.new_database()
    async with opened(url) as database:
        await add(database, 1)
        assert postgres_server.cut(url.database) == 1
        await add(database, 2)

        times = []

        def work(db):
            times.append(db.execute(insert(numbers).values(n=3)))
            if len(times) == 1:
                postgres_server.cut(url.database)
            db.execute(insert(numbers).values(n=4))

        await database.run(work)
        assert len(times) == 2
        assert await all_numbers(database) == [1, 2, 3, 4]


async def test_a_group_whose_connection_breaks_is_done_again_each_for_itself(postgres_server):
    url = postgres_server.new_database()
    cut, held = [], threading.Event()

    def cutting(db):
        if not cut:
            cut.append(postgres_server.cut(url.database))
        db.execute(insert(numbers).values(n=2))

    async with opened(url) as database:
        first = asyncio.ensure_future(database.run(lambda _: held.wait(10)))
        rest = [asyncio.ensure_future(work) for work in (add(database, 1), database.run(cutting), add(database, 3))]
        await asyncio.sleep(0)
        held.set()
        await asyncio.gather(first, *rest)
        assert await all_numbers(database) == [1, 2, 3]


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_commit_whose_answer_is_lost_is_looked_up(postgres_server, arrives):
    """The connection breaks just after the commit, or just before it: the work counts once either way."""
    url = postgres_server.new_database()
    broken = []

    async with opened(url) as database:

        def commit(connection):
            if not broken and connection.exec_driver_sql("SELECT EXISTS (SELECT FROM numbers)").scalar():
                broken.append(True)
                if arrives:
                    connection.connection.driver_connection.execute("COMMIT")
                connection.connection.driver_connection.pgconn.finish()

        event.listen(database._backend.engine, "commit", commit)
        await asyncio.gather(add(database, 1), add(database, 2))
        assert broken
        assert await all_numbers(database) == [1, 2]


async def test_a_server_that_is_away_is_unavailable_and_comes_back_by_itself(killable):
    async with opened(killable.new_database(), patience_s=0.1) as database:
        await add(database, 1)
        killable.stop()
        for _ in range(2):
            with pytest.raises(UnavailableError) as refused:
                await add(database, 2)
            assert refused.value.code == "database_unavailable"
            assert PASSWORD not in f"{refused.value.sentence} {refused.value.hint}"
        with pytest.raises(UnavailableError):
            await database.check()
        killable.start()
        await add(database, 3)
        assert await all_numbers(database) == [1, 3]


async def test_a_server_that_starts_late_is_waited_for(killable):
    url = killable.new_database()
    killable.stop()
    with pytest.raises(UnavailableError, match="does not answer"):
        async with opened(url, patience_s=0.2):
            pass
    opening = asyncio.ensure_future(opened(url, patience_s=PATIENCE).__aenter__())
    await asyncio.wait([opening], timeout=0.1)
    killable.start()
    database = await opening
    await add(database, 1)
    await database.__aexit__()


async def test_closing_does_not_wait_for_a_server_that_is_away(killable):
    url = killable.new_database()
    killable.stop()
    opening = asyncio.ensure_future(opened(url, patience_s=600).__aenter__())
    await asyncio.wait([opening], timeout=0.1)
    opening.cancel()
    await asyncio.wait([opening], timeout=10)
    assert opening.done()


async def test_whoever_holds_the_database_is_named(postgres_server):
    url = postgres_server.new_database()
    async with opened(url):
        with pytest.raises(ConfigurationError, match=r"another toy uses .*: swashplate toy .* from 127.0.0.1"):
            async with opened(url, patience_s=0):
                pass


async def test_services_share_a_server_s_database_without_meeting(postgres_server):
    url = postgres_server.new_database()
    other = type(SCHEMA)("other-toy", SCHEMA.metadata, SCHEMA.migrations)
    async with opened(url) as database, Database(url, other) as second:
        await add(database, 1)
        await add(second, 2)
        assert (await all_numbers(database), await all_numbers(second)) == ([1], [2])


async def test_what_another_used_in_between_is_not_touched_any_more(postgres_server):
    """What the first remembers may be wrong by now."""
    url = postgres_server.new_database()
    async with opened(url) as first:
        await add(first, 1)
        # The other one comes while the first does not notice that it has lost its connection.
        postgres_server.cut(url.database)
        async with opened(url) as second:
            await add(second, 2)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="another toy has used the database"):
                await add(first, 3)
    async with opened(url) as again:
        assert await all_numbers(again) == [1, 2]


async def test_while_another_has_the_database_it_is_unavailable(postgres_server):
    url = postgres_server.new_database()
    async with opened(url) as first:
        postgres_server.cut(url.database)
        async with opened(url):
            with pytest.raises(UnavailableError, match="another toy uses the database"):
                await add(first, 3)


async def test_commits_are_durable_whatever_the_server_s_default(postgres_server):
    url = postgres_server.new_database()
    with postgres_server.admin() as admin:
        admin.execute(f"ALTER DATABASE {url.database} SET synchronous_commit = off")
    async with opened(url) as database:
        assert await database.run(lambda db: db.execute(text("SHOW synchronous_commit")).scalar()) == "on"
        assert await database.run(lambda db: db.execute(text("SHOW fsync")).scalar()) == "on"


async def test_a_full_disk_is_unavailable_not_broken_and_passes(postgres_server):
    """A quota on temporary files stands for the disk: the same kind of error (class 53)."""
    url = postgres_server.new_database()

    def fill(db):
        db.execute(text("SET LOCAL work_mem = '64kB'"))
        db.execute(insert(numbers).values(n=7))
        return db.execute(text("SELECT n FROM generate_series(1, 300000) AS n ORDER BY -n, md5(n::text)")).first()

    with postgres_server.admin() as admin:
        admin.execute(f"ALTER DATABASE {url.database} SET temp_file_limit = '64kB'")
    async with opened(url) as database:
        found = await asyncio.gather(add(database, 1), database.run(fill), add(database, 2), return_exceptions=True)
        assert [type(outcome) for outcome in found] == [type(None), UnavailableError, type(None)]
        assert await all_numbers(database) == [1, 2]


async def test_somebody_s_lock_is_unavailable_not_for_ever(postgres_server, monkeypatch):
    monkeypatch.setitem(postgres_session(), "lock_timeout", "100ms")
    url = postgres_server.new_database()
    async with opened(url) as database:
        with connect(url) as other, other.transaction():
            other.execute("LOCK TABLE toy.numbers")
            with pytest.raises(UnavailableError, match="lock"):
                await add(database, 1)
        await add(database, 2)
        assert await all_numbers(database) == [2]


def postgres_session():
    from swashplate.database import postgres

    return postgres._SESSION


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong-and-secret"}, "authentication failed"),
        ({"password": None}, "no password"),
        ({"username": "nobody"}, "authentication failed"),
        ({"database": "missing"}, "does not exist"),
        ({"query": {"sslmode": "require"}}, "SSL"),
        ({"query": {"sslmode": "sometimes"}}, "sslmode"),
        ({"query": {"colour": "blue", "password": "wrong-and-secret"}}, "colour"),
    ],
)
async def test_a_wrong_setting_is_told_at_once_and_without_the_password(postgres_server, change, reason):
    url = postgres_server.new_database()
    change.setdefault("password", url.password)
    changed = url.set(**{key: value for key, value in change.items() if value is not None})
    if change["password"] is None:
        changed = changed._replace(password=None)
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match=reason) as refused:
        async with opened(changed, patience_s=PATIENCE):
            pass
    assert time.monotonic() - began < PATIENCE / 2
    told = f"{refused.value.sentence} {refused.value.hint} {refused.value!r}"
    assert PASSWORD not in told
    assert "wrong-and-secret" not in told


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres_server):
    url = postgres_server.new_database("ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConfigurationError, match="LATIN1") as refused:
        async with opened(url):
            pass
    assert "UTF8" in refused.value.hint


async def test_a_user_who_may_not_make_a_schema_uses_one_that_is_there(postgres_server):
    url = postgres_server.new_database()
    with connect(url) as admin:
        admin.execute(f"DROP ROLE IF EXISTS modest; CREATE ROLE modest LOGIN PASSWORD '{PASSWORD}'")
        with pytest.raises(ConfigurationError, match="permission denied"):
            async with opened(url.set(username="modest")):
                pass
        admin.execute("CREATE SCHEMA toy AUTHORIZATION modest")
    async with opened(url.set(username="modest")) as database:
        await add(database, 1)
        assert await all_numbers(database) == [1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "no URL"),
        ("mysql://u:secret@h/d", "mysql"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:port/d", "no URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_showing_it(text, reason):
    with pytest.raises(ConfigurationError, match=reason) as refused:
        database_url(text)
    assert "secret" not in refused.value.sentence
    assert refused.value.hint
