"""Where the manager's database is, by our setting or by the names that Propeller's manager has for it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from sqlalchemy import URL

from swashplate import logging
from swashplate.database import shown, sqlite_url
from swashplate.database_settings import DatabaseSettings
from swashplate.errors import ConfigurationError
from swashplate.settings import named_after, setting

log = logging.get("manager")

FILE = "manager.db"


class StorageType(StrEnum):
    DEFAULT = ""
    MEMORY = "memory"
    BADGER = "badger"
    SQLITE = "sqlite"
    POSTGRES = "postgres"


class StorageSettings(DatabaseSettings):
    model_config = named_after("MANAGER")

    storage_type: StorageType = setting(
        StorageType.DEFAULT,
        "MANAGER_STORAGE_TYPE",
        help="`sqlite`, or `postgres` with the settings below; MANAGER_DATABASE_URL needs neither. `memory` and `badger`"
        " are kept in SQLite too: the manager never forgets what it has confirmed.",
    )
    sqlite_path: Path | None = setting(
        None, "MANAGER_SQLITE_PATH", help="The SQLite file; by default `manager.db` in the state folder."
    )
    postgres_host: str = setting("localhost", "MANAGER_POSTGRES_HOST", help="With storage type `postgres`: the server.")
    postgres_port: Annotated[int, Field(ge=1, le=65535)] = setting(
        5432, "MANAGER_POSTGRES_PORT", help="The server's port."
    )
    postgres_user: str = setting("", "MANAGER_POSTGRES_USER", help="The user; by default this process's own.")
    postgres_pass: SecretStr = setting(SecretStr(""), "MANAGER_POSTGRES_PASS", help="That user's password.")
    postgres_db: str = setting("propeller", "MANAGER_POSTGRES_DB", help="The database.")
    postgres_sslmode: str = setting(
        "disable", "MANAGER_POSTGRES_SSLMODE", help="disable, allow, prefer, require, verify-ca or verify-full."
    )

    def database(self, folder: Path) -> URL:
        """Raises ``ConfigurationError`` when the settings contradict each other."""
        url = self.database_or(folder / FILE)
        kind = self.storage_type
        if self.database_url.get_secret_value().strip():
            meant = StorageType.SQLITE if url.get_backend_name() == "sqlite" else StorageType.POSTGRES
            if kind not in {StorageType.DEFAULT, meant}:
                raise ConfigurationError(
                    f"setting MANAGER_STORAGE_TYPE: {kind}, but MANAGER_DATABASE_URL is {shown(url)}",
                    hint="clear one of them",
                )
            return url
        if kind is StorageType.POSTGRES:
            return URL.create(
                "postgresql+psycopg",
                username=self.postgres_user or None,
                password=self.postgres_pass.get_secret_value() or None,
                host=self.postgres_host,
                port=self.postgres_port,
                database=self.postgres_db,
                query={"sslmode": self.postgres_sslmode},
            )
        if kind in {StorageType.MEMORY, StorageType.BADGER}:
            log.warning(
                "there is no such storage: tasks are kept in SQLite, and are there after a restart",
                setting="MANAGER_STORAGE_TYPE",
                given=str(kind),
                database=shown(url),
            )
            return url
        return sqlite_url(self.sqlite_path) if self.sqlite_path else url
