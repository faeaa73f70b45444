"""How a database comes to have its tables: made, brought up to date, or refused."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, text

from swashplate.database import Database, Schema, sqlite_url
from swashplate.errors import ConfigurationError
from tests.support import schemas, toy_migrations
from tests.support.toy_schema import SCHEMA, children, numbers

NEXT = """
import os, signal
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    anew = "always" if op.get_bind().dialect.name == "sqlite" else "auto"
    with op.batch_alter_table("numbers", recreate=anew) as batch:
        batch.add_column(sa.Column("colour", sa.String, nullable=False, server_default="red"))
    op.execute("UPDATE numbers SET colour = 'blue' WHERE n = 2")
    {end}
"""


@pytest.fixture
def next_schema(tmp_path, monkeypatch):
    """The toy's tables of a later version, and the revision that leads there; call it with the revision's last line."""

    def make(end=""):
        name = f"toy_{uuid.uuid4().hex}"
        folder = tmp_path / "packages" / name
        shutil.copytree(Path(toy_migrations.__file__).parent, folder, dirs_exist_ok=True)
        (folder / "v0002_colours.py").write_text(NEXT.format(end=end))
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        later = MetaData()
        for table in (numbers, children):
            table.to_metadata(later)
        later.tables["numbers"].append_column(Column("colour", String, nullable=False, server_default="red"))
        return Schema("toy", later, name)

    return make


async def filled(url):
    async with Database(url, SCHEMA) as database:
        await database.run(lambda db: db.execute(insert(numbers), [{"n": n, "word": str(n)} for n in range(5)]))
        await database.run(lambda db: db.execute(insert(children).values(n=2)))


COLOURS = text("SELECT n, word, colour FROM numbers ORDER BY n")


async def test_an_older_database_is_migrated_with_what_is_in_it(new_database, next_schema):
    """A table that others refer to is changed."""
    url, schema = new_database(), next_schema()
    await filled(url)
    for _ in range(2):
        async with Database(url, schema) as database:
            found = await database.run(lambda db: [tuple(row) for row in db.execute(COLOURS)])
            assert found == [(n, str(n), "blue" if n == 2 else "red") for n in range(5)]
            with pytest.raises(Exception, match=r"(?i)foreign key"):
                await database.run(lambda db: db.execute(insert(children).values(n=77)))
    fresh = await schemas.opened(new_database(), schema)
    assert await schemas.opened(url, schema) == fresh


async def test_a_migration_that_orphans_a_row_is_undone(tmp_path, next_schema):
    """SQLite does not watch foreign keys while a table is built anew."""
    url = sqlite_url(tmp_path / "x.db")
    await filled(url)
    with pytest.raises(ConfigurationError, match="lost their parent"):
        async with Database(url, next_schema("op.execute('DELETE FROM numbers WHERE n = 2')")):
            pass
    async with Database(url, SCHEMA) as database:
        assert len(await database.run(lambda db: db.execute(select(numbers)).all())) == 5


@pytest.mark.parametrize("end", ["raise ValueError('this revision is broken')", "os.kill(os.getpid(), signal.SIGKILL)"])
async def test_a_migration_that_does_not_finish_leaves_the_old_schema(new_database, next_schema, end):
    url = new_database()
    await filled(url)
    before = await schemas.opened(url, SCHEMA)
    broken = next_schema(end)
    program = (
        "import asyncio, sys; from sqlalchemy import make_url; from swashplate.database import *\n"
        "from tests.support.toy_schema import SCHEMA\n"
        "url, package = sys.stdin.read().splitlines()\n"
        "async def main():\n"
        "    async with Database(make_url(url), Schema('toy', SCHEMA.metadata, package)): pass\n"
        "asyncio.run(main())"
    )
    path = os.pathsep.join([str(Path(broken.folder).parent), str(Path(__file__).parents[3])])
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        input=f"{url.render_as_string(hide_password=False)}\n{broken.migrations}",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == (-signal.SIGKILL if "SIGKILL" in end else 1), ended.stderr
    assert await schemas.opened(url, SCHEMA) == before
    async with Database(url, SCHEMA) as database:
        assert len(await database.run(lambda db: db.execute(select(numbers)).all())) == 5
    async with Database(url, next_schema()) as database:
        assert len(await database.run(lambda db: db.execute(COLOURS).all())) == 5


async def test_an_older_program_refuses_a_newer_database_and_leaves_it_alone(new_database, next_schema):
    url, later = new_database(), next_schema()
    before = await schemas.opened(url, later)
    with pytest.raises(ConfigurationError, match="has schema 0002, this program knows up to 0001") as refused:
        async with Database(url, SCHEMA):
            pass
    assert "upgrade" in refused.value.hint
    assert await schemas.opened(url, later) == before


async def test_tables_of_another_program_are_not_touched(new_database):
    url = new_database()
    other = MetaData()
    Table("numbers", other, Column("colour", String, primary_key=True), Column("size", Integer))
    stranger = Schema("toy", other, SCHEMA.migrations)
    async with Database(url, stranger) as database:
        await database.run(lambda db: db.execute(text("DROP TABLE alembic_version")))
    with pytest.raises(ConfigurationError, match="another program: numbers"):
        async with Database(url, SCHEMA):
            pass


async def test_a_database_of_an_unknown_old_version_is_refused(tmp_path):
    url = sqlite_url(tmp_path / "x.db")
    async with Database(url, SCHEMA) as database:
        for statement in (
            "DROP TABLE alembic_version",
            "CREATE TABLE schema_version (version INTEGER)",
            "INSERT INTO schema_version VALUES (7)",
        ):
            await database.run(lambda db, statement=statement: db.execute(text(statement)))
    with pytest.raises(ConfigurationError, match="has schema 7"):
        async with Database(url, SCHEMA):
            pass


async def test_migrated_and_fresh_databases_have_the_same_schema(new_database):
    assert schemas.migrated(new_database(), SCHEMA) == await schemas.opened(new_database(), SCHEMA)


def test_a_start_without_a_migration_does_not_import_alembic(tmp_path):
    program = (
        "import asyncio, sys; from pathlib import Path; from swashplate.database import Database, sqlite_url\n"
        "from manager.state.tables import SCHEMA\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        async with Database(sqlite_url(Path('x.db')), SCHEMA): pass\n"
        "asyncio.run(main()); print('alembic' in sys.modules, 'psycopg' in sys.modules)"
    )
    root = str(Path(__file__).parents[3])
    shown = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
    )
    assert shown.stdout == b"False False\n"
