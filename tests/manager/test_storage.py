"""Which database the settings mean."""

import pytest

from manager.settings import ManagerSettings
from swashplate.database import Database, shown
from swashplate.errors import ConfigurationError
from tests.support.toy_schema import SCHEMA

IDS = {f"MANAGER_{name}": "x" for name in ("DOMAIN_ID", "CHANNEL_ID", "CLIENT_ID", "CLIENT_KEY")}
SECRET = "s3cret/with@signs"
POSTGRES = {
    "MANAGER_STORAGE_TYPE": "postgres",
    "MANAGER_POSTGRES_HOST": "db.example.com",
    "MANAGER_POSTGRES_USER": "manager",
    "MANAGER_POSTGRES_PASS": SECRET,
}
URL = "postgresql://manager:s3cret%2Fwith%40signs@db.example.com:6432/tasks?sslmode=require"


def meant(folder, **environ):
    return ManagerSettings.load({**IDS, **environ}).database(folder)


def test_by_default_it_is_a_file_in_the_state_folder(tmp_path):
    for environ in ({}, {"MANAGER_STORAGE_TYPE": "sqlite"}, {"MANAGER_DATABASE_URL": " "}):
        url = meant(tmp_path, **environ)
        assert (url.drivername, url.database) == ("sqlite", str(tmp_path / "manager.db"))


def test_the_file_can_be_elsewhere(tmp_path):
    for environ in ({"MANAGER_SQLITE_PATH": "/data/m.db"}, {"MANAGER_DATABASE_URL": "sqlite:////data/m.db"}):
        assert meant(tmp_path, **environ, MANAGER_STORAGE_TYPE="sqlite").database == "/data/m.db"


def test_postgresql_by_url(tmp_path):
    url = meant(tmp_path, MANAGER_DATABASE_URL=URL)
    assert (url.drivername, url.username, url.password) == ("postgresql+psycopg", "manager", SECRET)
    assert (url.host, url.port, url.database, url.query["sslmode"]) == ("db.example.com", 6432, "tasks", "require")
    assert meant(tmp_path, MANAGER_DATABASE_URL=URL.replace("postgresql:", "postgres:")) == url


def test_postgresql_by_the_names_of_the_existing_manager(tmp_path):
    url = meant(tmp_path, **POSTGRES)
    assert (url.drivername, url.username, url.password) == ("postgresql+psycopg", "manager", SECRET)
    assert (url.host, url.port, url.database, url.query["sslmode"]) == ("db.example.com", 5432, "propeller", "disable")


@pytest.mark.parametrize("kind", ["memory", "badger"])
def test_what_would_forget_is_kept_all_the_same_and_said(tmp_path, kind, capsys):
    assert meant(tmp_path, MANAGER_STORAGE_TYPE=kind).database == str(tmp_path / "manager.db")
    said = capsys.readouterr().out
    assert kind in said
    assert "there after a restart" in said
    assert "manager.db" in said


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"MANAGER_STORAGE_TYPE": "mongo"}, "MANAGER_STORAGE_TYPE"),
        ({"MANAGER_POSTGRES_PORT": "0"}, "MANAGER_POSTGRES_PORT"),
        ({"MANAGER_DATABASE_URL": f"mysql://u:{SECRET}@h/d"}, "MANAGER_DATABASE_URL"),
        ({"MANAGER_DATABASE_URL": f"postgresql://u:{SECRET}@h:x/d"}, "MANAGER_DATABASE_URL"),
        ({"MANAGER_DATABASE_URL": URL, "MANAGER_STORAGE_TYPE": "sqlite"}, "MANAGER_STORAGE_TYPE"),
        ({"MANAGER_DATABASE_URL": "sqlite:///x.db", "MANAGER_STORAGE_TYPE": "postgres"}, "MANAGER_STORAGE_TYPE"),
    ],
)
def test_a_wrong_setting_is_named_and_its_password_is_not(tmp_path, environ, named):
    with pytest.raises(ConfigurationError, match=named) as refused:
        meant(tmp_path, **environ)
    told = f"{refused.value.sentence} {refused.value.hint} {refused.value.__cause__!r}"
    assert "s3cret" not in told


def test_nothing_that_is_printed_holds_the_password(tmp_path):
    settings = ManagerSettings.load({**IDS, **POSTGRES, "MANAGER_DATABASE_URL": URL})
    url = settings.database(tmp_path)
    for told in (repr(settings), str(settings), repr(url), str(url), shown(url)):
        assert "s3cret" not in told
    assert shown(url) == "postgresql://manager:***@db.example.com:6432/tasks"


async def test_what_the_settings_say_is_a_database_that_can_be_used(postgres_server, tmp_path):
    url = postgres_server.new_database()
    environ = {
        "MANAGER_STORAGE_TYPE": "postgres",
        "MANAGER_POSTGRES_HOST": url.host,
        "MANAGER_POSTGRES_PORT": str(url.port),
        "MANAGER_POSTGRES_USER": url.username,
        "MANAGER_POSTGRES_PASS": str(url.password),
        "MANAGER_POSTGRES_DB": url.database,
    }
    for given in (environ, {"MANAGER_DATABASE_URL": url.render_as_string(hide_password=False)}):
        async with Database(meant(tmp_path, **given), SCHEMA) as database:
            await database.check()
