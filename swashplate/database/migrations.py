"""Running a service's revisions with Alembic. Imported only when there is something to run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

if TYPE_CHECKING:
    from swashplate.database.schema import Schema

SCRIPTS = Path(__file__).with_name("scripts")
_one_at_a_time = threading.Lock()
"""Alembic's ``op`` and ``context`` belong to the process, and each database has a thread."""


def configured(connection: Connection, schema: Schema) -> Config:
    config = Config(attributes={"connection": connection, "metadata": schema.metadata})
    for name, value in {
        "script_location": str(SCRIPTS),
        "version_locations": str(schema.folder),
        "path_separator": "newline",
    }.items():
        config.set_main_option(name, value.replace("%", "%%"))
    return config


def upgrade(connection: Connection, schema: Schema, to: str) -> None:
    with _one_at_a_time:
        command.upgrade(configured(connection, schema), to)
