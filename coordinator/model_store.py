"""Models on disk: lines of versions, immutable but for a version 0 that no round has used yet."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Float,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    String,
    Table,
    UniqueConstraint,
    bindparam,
    func,
    insert,
    select,
    update,
)

from coordinator import offload
from swashplate.blobs import BlobStore, sha256_digest
from swashplate.database import Database, Schema, sqlite_url
from swashplate.errors import ConflictError, NotFoundError
from swashplate.model_ref import DEFAULT_LINE, ModelRef

ZERO_MODEL = b'{"w":[0,0,0],"b":0}'

FILE = "models.sqlite3"
_metadata = MetaData()
SCHEMA = Schema("model-registry", _metadata, "coordinator.migrations.models")
_models = Table(
    "models",
    _metadata,
    Column("line", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("body", LargeBinary),  # NULL: a blob
    Column("created_at", Float, nullable=False),
    Column("parent", Integer),
    Column("round_id", String),
    Column("details", String, nullable=False),
    PrimaryKeyConstraint("line", "version"),
    UniqueConstraint("line", "round_id"),
)
_uses = Table(
    "uses",
    _metadata,
    Column("line", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("round_id", String, nullable=False),
    PrimaryKeyConstraint("line", "version", "round_id"),
    ForeignKeyConstraint(["line", "version"], ["models.line", "models.version"]),
)

# Built once: SQLAlchemy then finds their compiled form by identity.
_AT = _models.c.line == bindparam("of_line"), _models.c.version == bindparam("of_version")
_FIND, _ADD, _REPLACE = select(_models).where(*_AT), insert(_models), update(_models).where(*_AT)
_FIND_ROUND = select(_models).where(_models.c.line == bindparam("of_line"), _models.c.round_id == bindparam("of_round"))
_LAST = select(func.max(_models.c.version)).where(_models.c.line == bindparam("of_line"))
_USERS = select(_uses.c.round_id).where(
    _uses.c.line == bindparam("of_line"), _uses.c.version == bindparam("of_version")
)
_USER, _USER_NAMED, _ADD_USER = _USERS.limit(1), _USERS.where(_uses.c.round_id == bindparam("of_round")), insert(_uses)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """``body`` is the canonical JSON; ``details`` what the round said about it."""

    ref: ModelRef
    digest: str
    body: bytes
    created_at: float
    parent: int | None
    round_id: str | None
    details: Mapping[str, Any]


class ModelStore:
    """What a method returned from is on the disk."""

    def __init__(self, folder: Path, url: URL | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """``url`` is the database, by default SQLite in ``folder``, where large models are in any case."""
        self._database = Database(url or sqlite_url(folder / FILE), SCHEMA)
        self._blobs = BlobStore(folder / "blobs")
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()

        def begin(connection: Connection) -> None:
            if self._last(connection, DEFAULT_LINE) is None:
                self._insert(connection, ModelRef(DEFAULT_LINE, 0), ZERO_MODEL)

        await self._database.run(begin)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._database.__aexit__(*exc)

    async def check(self) -> None:
        await self._database.check()

    async def lines(self) -> list[str]:
        wanted = select(_models.c.line).distinct()
        return await self._database.run(lambda connection: sorted(connection.execute(wanted).scalars()))

    async def versions(self, line: str) -> list[int]:
        """Raises ``NotFoundError`` when there is no such line."""
        wanted = select(_models.c.version).where(_models.c.line == line).order_by(_models.c.version)
        found = await self._database.run(lambda connection: list(connection.execute(wanted).scalars()))
        if not found:
            raise NotFoundError(
                f"there is no model line {line}",
                code="line_not_found",
                hint=f'start it with POST /lines/{line}/models {{"version": 0, "model": …}}',
            )
        return found

    async def read(self, ref: ModelRef) -> StoredModel:
        """Raises ``NotFoundError`` with code ``model_not_found``."""
        row = await self._database.run(lambda connection: self._find(connection, ref))
        if row is None:
            raise _not_found(ref)
        return await self._stored(row)

    async def put(self, ref: ModelRef, body: bytes) -> None:
        """Store ``body`` as the version that its sender chose; the same bytes again change nothing.

        Raises ``ConflictError`` when that version holds another model, or is not the next one of its line.
        """
        digest = await self._keep(body)

        def put(connection: Connection) -> None:
            found = self._find(connection, ref)
            if found is None:
                self._require_next(connection, ref)
                self._insert(connection, ref, body)
            elif found.digest != digest:
                self._require_replaceable(connection, ref)
                replaced = {"digest": digest, "body": _inline(body), "created_at": self._clock()}
                connection.execute(_REPLACE, {**_at(ref), **replaced})

        await self._database.run(put)

    async def describe(self, ref: ModelRef) -> tuple[StoredModel, bool]:
        """The model, and whether it can no longer change. Raises ``NotFoundError``."""

        def look(connection: Connection) -> tuple[Row[Any] | None, bool]:
            return self._find(connection, ref), ref.version > 0 or self._user(connection, ref) is not None

        row, final = await self._database.run(look)
        if row is None:
            raise _not_found(ref)
        return await self._stored(row), final

    async def use(self, ref: ModelRef, digest: str, round_id: str) -> None:
        """Note that a round starts from ``ref``: from now on it never changes.

        Raises ``NotFoundError``, and ``ConflictError`` with code ``base_replaced`` when its digest is another one.
        """

        def note(connection: Connection) -> None:
            row = self._find(connection, ref)
            if row is None:
                raise _not_found(ref)
            if row.digest != digest:
                raise ConflictError(
                    f"{ref.uri} was replaced while round {round_id} was starting from it",
                    code="base_replaced",
                    hint="start another round from the new model",
                )
            if connection.execute(_USER_NAMED, {**_at(ref), "of_round": round_id}).first() is None:
                connection.execute(_ADD_USER, {"line": ref.line, "version": ref.version, "round_id": round_id})

        await self._database.run(note)

    async def add_round(
        self, line: str, round_id: str, body: bytes, *, parent: int, details: Mapping[str, Any]
    ) -> tuple[StoredModel, bool]:
        """Store what a round made as the next version of its line; also says whether it is new.

        The same model for the same round is that version again; raises ``ConflictError`` for another model and
        ``NotFoundError`` when the parent does not exist.
        """
        digest = await self._keep(body)

        def add(connection: Connection) -> StoredModel | Row[Any]:
            known = connection.execute(_FIND_ROUND, {"of_line": line, "of_round": round_id}).first()
            if known is not None:
                return known
            last = self._last(connection, line)
            if last is None or parent > last:
                raise _not_found(ModelRef(line, parent))
            ref = ModelRef(line, last + 1)
            return self._insert(connection, ref, body, parent=parent, round_id=round_id, details=details)

        known = await self._database.run(add)
        if isinstance(known, StoredModel):
            return known, True
        if known.digest != digest:
            raise ConflictError(
                f"round {round_id} already made version {known.version} of {line}, with another model",
                code="round_model_conflict",
            )
        return await self._stored(known), False

    async def _keep(self, body: bytes) -> str:
        """A large body becomes a blob before any row names it."""
        if len(body) <= offload.SMALL:
            return sha256_digest(body)
        return await asyncio.to_thread(self._blobs.put, body)

    async def _stored(self, row: Row[Any]) -> StoredModel:
        body = row.body if row.body is not None else await asyncio.to_thread(self._blobs.read, row.digest)
        details = json.loads(row.details)
        ref = ModelRef(row.line, row.version)
        return StoredModel(ref, row.digest, body, row.created_at, row.parent, row.round_id, details)

    def _insert(
        self,
        connection: Connection,
        ref: ModelRef,
        body: bytes,
        *,
        parent: int | None = None,
        round_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> StoredModel:
        model = StoredModel(ref, sha256_digest(body), body, self._clock(), parent, round_id, details or {})
        values = {
            "line": ref.line,
            "version": ref.version,
            "digest": model.digest,
            "body": _inline(body),
            "created_at": model.created_at,
            "parent": parent,
            "round_id": round_id,
            "details": json.dumps(model.details),
        }
        connection.execute(_ADD, values)
        return model

    @staticmethod
    def _find(connection: Connection, ref: ModelRef) -> Row[Any] | None:
        return connection.execute(_FIND, _at(ref)).first()

    @staticmethod
    def _last(connection: Connection, line: str) -> int | None:
        version: int | None = connection.execute(_LAST, {"of_line": line}).scalar()
        return version

    def _require_next(self, connection: Connection, ref: ModelRef) -> None:
        last = self._last(connection, ref.line)
        following = 0 if last is None else last + 1
        if ref.version != following:
            raise ConflictError(
                f"version {ref.version} of {ref.line} would leave a gap",
                code="version_gap",
                hint=f"the next version of {ref.line} is {following}",
            )

    @staticmethod
    def _user(connection: Connection, ref: ModelRef) -> str | None:
        """A round that starts from it, if any does."""
        round_id: str | None = connection.execute(_USER, _at(ref)).scalar()
        return round_id

    def _require_replaceable(self, connection: Connection, ref: ModelRef) -> None:
        if ref.version > 0:
            raise ConflictError(
                f"version {ref.version} of {ref.line} holds another model; versions never change",
                code="model_immutable",
                hint="post it as the next version",
            )
        user = self._user(connection, ref)
        if user is not None:
            raise ConflictError(
                f"version 0 of {ref.line} was used by round {user}, so it no longer changes",
                code="model_immutable",
                hint="post it as the next version, or start a line of its own with POST /lines/NAME/models",
            )


def _at(ref: ModelRef) -> dict[str, Any]:
    return {"of_line": ref.line, "of_version": ref.version}


def _inline(body: bytes) -> bytes | None:
    return body if len(body) <= offload.SMALL else None


def _not_found(ref: ModelRef) -> NotFoundError:
    return NotFoundError(
        f"Model not found: there is no version {ref.version} of {ref.line}",
        code="model_not_found",
        hint=f"GET /lines/{ref.line}/models lists the versions",
    )
