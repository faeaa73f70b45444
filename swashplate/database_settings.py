"""Where a service keeps its tables: one declaration, named after each role."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, SecretStr

from swashplate.errors import ConfigurationError
from swashplate.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL


def _usable(secret: SecretStr) -> SecretStr:
    if text := secret.get_secret_value().strip():
        from swashplate.database import database_url  # noqa: PLC0415  # SQLAlchemy takes long to import

        try:
            database_url(text)
        except ConfigurationError as error:
            raise ValueError(f"{error.sentence}; it is {error.hint}") from None
    return secret


DatabaseUrl = Annotated[SecretStr, AfterValidator(_usable)]


class DatabaseSettings(Settings):
    """A role gives the name: ``named_after``."""

    database_url: DatabaseUrl = Field(
        SecretStr(""),
        description="The database, such as `postgresql://user:password@host:5432/database`; by default a SQLite file in"
        " the state folder. Several services may share one of PostgreSQL.",
    )

    def database_or(self, file: Path) -> URL:
        """The database that is set, or else SQLite in ``file``."""
        from swashplate.database import database_url, sqlite_url  # noqa: PLC0415

        text = self.database_url.get_secret_value().strip()
        return database_url(text) if text else sqlite_url(file)
