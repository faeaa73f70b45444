"""Rounds, participants and updates on disk. What a method returned from survives any crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    String,
    Table,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.sql import ColumnElement

from coordinator import offload
from coordinator.records import Participant, ReceivedUpdate, Round, UpdateKey
from coordinator.states import OVER, ParticipantState, RoundState
from swashplate.blobs import BlobStore
from swashplate.database import Database, Schema, sqlite_url
from swashplate.errors import UnavailableError
from swashplate.messages import ExperimentConfig
from swashplate.model_ref import ModelRef

_metadata = MetaData()
SCHEMA = Schema("coordinator", _metadata, "coordinator.migrations.rounds")
_rounds = Table(
    "rounds",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("round_id", String, nullable=False, unique=True),
    Column("config", String, nullable=False),
    Column("base", String, nullable=False),
    Column("base_digest", String, nullable=False),
    Column("base_shapes", String, nullable=False),
    Column("k_of_n", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("deadline", Float, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("code", String, nullable=False),
    Column("error", String, nullable=False),
    Column("answer", String, nullable=False),
    Column("aggregating_at", Float),
    Column("finished_at", Float),
    Column("model_version", Integer),
    Column("model_digest", String, nullable=False),
    Column("announced", Boolean, nullable=False),
)
_participants = Table(
    "participants",
    _metadata,
    Column("round_id", String, ForeignKey("rounds.round_id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("proplet_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("task_id", String, nullable=False),
    Column("code", String, nullable=False),
    Column("error", String, nullable=False),
    Column("wasm_digest", String, nullable=False),
    Column("launched_at", Float),
    Column("ended_at", Float),
    PrimaryKeyConstraint("round_id", "proplet_id"),
)
_updates = Table(
    "updates",
    _metadata,
    Column("round_id", String, ForeignKey("rounds.round_id"), nullable=False),
    Column("proplet_id", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("num_samples", Integer, nullable=False),
    Column("metrics", String, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("body", LargeBinary),  # NULL: a blob
    PrimaryKeyConstraint("round_id", "proplet_id"),
)
FILE = "rounds.sqlite3"
_OPEN = [s.value for s in RoundState if s not in OVER]

Result = TypeVar("Result")

# Built once: SQLAlchemy then finds their compiled form by identity.
_ADD_ROUND, _ADD_PARTICIPANT, _ADD_UPDATE = insert(_rounds), insert(_participants), insert(_updates)
_SAVE_ROUND = update(_rounds).where(_rounds.c.round_id == bindparam("of_round"))
_FIND_ROUND = select(_rounds).where(_rounds.c.round_id == bindparam("of_round"))
_FIND_PARTICIPANTS = (
    select(_participants).where(_participants.c.round_id == bindparam("of_round")).order_by(_participants.c.position)
)
_FIND_UPDATES = select(_updates).where(_updates.c.round_id == bindparam("of_round"))
_FIND_UPDATE_KEYS = select(_updates.c.proplet_id, _updates.c.digest, _updates.c.num_samples).where(
    _updates.c.round_id == bindparam("of_round")
)
_SAVE_PARTICIPANT = update(_participants).where(
    _participants.c.round_id == bindparam("of_round"), _participants.c.proplet_id == bindparam("of_proplet")
)


class RoundStore:
    def __init__(self, folder: Path, url: URL | None = None) -> None:
        """``url`` is the database, by default SQLite in ``folder``, where large updates are in any case."""
        self._database = Database(url or sqlite_url(folder / FILE), SCHEMA)
        self._blobs = BlobStore(folder / "blobs")

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._database.__aexit__(*exc)

    async def check(self) -> None:
        await self._database.check()

    async def add(self, round_: Round, participants: Iterable[Participant]) -> None:
        rows = [
            {"round_id": round_.id, "position": position, **_participant_values(participant)}
            for position, participant in enumerate(participants)
        ]
        values = {**_lasting_values(round_), **_changing_values(round_)}

        def add(connection: Connection) -> None:
            connection.execute(_ADD_ROUND, values)
            connection.execute(_ADD_PARTICIPANT, rows)

        await self._database.run(add)

    async def save(
        self,
        round_id: str,
        *,
        round_: Round | None = None,
        participants: Iterable[Participant] = (),
        received: Iterable[ReceivedUpdate] = (),
    ) -> None:
        """What changed of a round, of its participants, and new updates: all of it or nothing."""
        values = [await self._update_values(round_id, each) for each in received]
        changed = [
            {"of_round": round_id, "of_proplet": p.proplet_id, **_participant_values(p, identity=False)}
            for p in participants
        ]
        round_values = None if round_ is None else {"of_round": round_id, **_changing_values(round_)}

        def save(connection: Connection) -> None:
            if values:
                connection.execute(_ADD_UPDATE, values)
            if changed:
                connection.execute(_SAVE_PARTICIPANT, changed)
            if round_values is not None:
                connection.execute(_SAVE_ROUND, round_values)

        await self._database.run(save)

    async def find(self, round_id: str) -> tuple[Round, dict[str, Participant]] | None:
        def find(connection: Connection) -> tuple[Round, dict[str, Participant]] | None:
            row = connection.execute(_FIND_ROUND, {"of_round": round_id}).first()
            return None if row is None else (_round(row), self._participants_of(connection, round_id))

        return await self._database.run(find)

    async def unfinished(self) -> list[tuple[Round, dict[str, Participant]]]:
        """The rounds that are not over, oldest first."""

        def find(connection: Connection) -> list[tuple[Round, dict[str, Participant]]]:
            rows = self._select(connection, _rounds.c.state.in_(_OPEN))
            return [(_round(row), self._participants_of(connection, row.round_id)) for row in rows]

        return await self._database.run(find)

    async def unannounced(self) -> list[Round]:
        waiting = (_rounds.c.state == RoundState.COMPLETED.value) & ~_rounds.c.announced
        rows = await self._database.run(lambda connection: self._select(connection, waiting))
        return [_round(row) for row in rows]

    async def page(self, *, offset: int, limit: int) -> tuple[int, list[tuple[Round, int]]]:
        """How many rounds there are, and a page of them, newest first, each with the number of its updates."""
        count = (
            select(func.count())
            .select_from(_updates)
            .where(_updates.c.round_id == _rounds.c.round_id)
            .scalar_subquery()
            .label("num_updates")
        )
        newest = select(_rounds, count).order_by(_rounds.c.number.desc()).offset(offset).limit(limit)

        def read(connection: Connection) -> tuple[int, list[tuple[Round, int]]]:
            total = connection.execute(select(func.count()).select_from(_rounds)).scalar_one()
            return total, [(_round(row), row.num_updates) for row in connection.execute(newest)]

        return await self._database.run(read)

    async def last_completed(self) -> Round | None:
        last = (
            select(_rounds)
            .where(_rounds.c.state == RoundState.COMPLETED.value)
            .order_by(_rounds.c.finished_at.desc(), _rounds.c.number.desc())
            .limit(1)
        )
        row = await self._database.run(lambda connection: connection.execute(last).first())
        return None if row is None else _round(row)

    async def update_keys(self, round_id: str) -> dict[str, UpdateKey]:
        of = {"of_round": round_id}
        rows = await self._database.run(lambda connection: connection.execute(_FIND_UPDATE_KEYS, of).all())
        return {row.proplet_id: UpdateKey(row.digest, row.num_samples) for row in rows}

    async def updates(self, round_id: str) -> list[ReceivedUpdate]:
        """In the order of participant ids, with their bodies."""
        of = {"of_round": round_id}
        rows = await self._database.run(lambda connection: connection.execute(_FIND_UPDATES, of).all())
        return [
            ReceivedUpdate(
                proplet_id=row.proplet_id,
                key=UpdateKey(row.digest, row.num_samples),
                metrics=row.metrics,
                received_at=row.received_at,
                body=row.body if row.body is not None else await _on_disk(self._blobs.read, row.digest),
            )
            for row in sorted(rows, key=lambda row: str(row.proplet_id))  # databases have orders of their own
        ]

    async def metrics(self, round_id: str) -> dict[str, dict[str, Any]]:
        """What each participant that sent an update measured."""
        columns = select(_updates.c.proplet_id, _updates.c.metrics).where(_updates.c.round_id == round_id)
        rows = await self._database.run(lambda connection: connection.execute(columns).all())
        return {row.proplet_id: json.loads(row.metrics) for row in rows}

    async def _update_values(self, round_id: str, received: ReceivedUpdate) -> dict[str, Any]:
        small = len(received.body) <= offload.SMALL
        if not small:
            await _on_disk(self._blobs.put, received.body, received.key.digest)
        return {
            "round_id": round_id,
            "proplet_id": received.proplet_id,
            "digest": received.key.digest,
            "num_samples": received.key.num_samples,
            "metrics": received.metrics,
            "received_at": received.received_at,
            "body": received.body if small else None,
        }

    @staticmethod
    def _select(connection: Connection, condition: ColumnElement[bool]) -> list[Row[Any]]:
        found = connection.execute(select(_rounds).where(condition).order_by(_rounds.c.number))
        return list(found.all())

    @staticmethod
    def _participants_of(connection: Connection, round_id: str) -> dict[str, Participant]:
        rows = connection.execute(_FIND_PARTICIPANTS, {"of_round": round_id})
        return {row.proplet_id: _participant(row) for row in rows}


async def _on_disk(work: Callable[..., Result], *args: Any) -> Result:
    """Work on files fails as work on the database does: a full disk is no mistake of whoever sent an update."""
    try:
        return await asyncio.to_thread(work, *args)
    except OSError as error:
        raise UnavailableError(f"the disk cannot do this now: {error}", code="disk_unavailable") from error


def _lasting_values(round_: Round) -> dict[str, Any]:
    return {
        "round_id": round_.id,
        "config": round_.config.model_dump_json(),
        "base": round_.base.uri,
        "base_digest": round_.base_digest,
        "base_shapes": json.dumps(round_.base_shapes),
        "k_of_n": round_.k_of_n,
        "created_at": round_.created_at,
        "deadline": round_.deadline,
    }


def _changing_values(round_: Round) -> dict[str, Any]:
    return {
        "state": round_.state.value,
        "code": round_.code,
        "error": round_.error,
        "answer": round_.answer,
        "aggregating_at": round_.aggregating_at,
        "finished_at": round_.finished_at,
        "model_version": round_.model_version,
        "model_digest": round_.model_digest,
        "announced": round_.announced,
    }


def _round(row: Row[Any]) -> Round:
    return Round(
        config=ExperimentConfig.model_validate_json(row.config),
        base=ModelRef.parse(row.base),
        base_digest=row.base_digest,
        base_shapes=json.loads(row.base_shapes),
        k_of_n=row.k_of_n,
        created_at=row.created_at,
        deadline=row.deadline,
        state=RoundState(row.state),
        code=row.code,
        error=row.error,
        answer=row.answer,
        aggregating_at=row.aggregating_at,
        finished_at=row.finished_at,
        model_version=row.model_version,
        model_digest=row.model_digest,
        announced=row.announced,
    )


def _participant_values(participant: Participant, *, identity: bool = True) -> dict[str, Any]:
    values = {
        "state": participant.state.value,
        "task_id": participant.task_id,
        "code": participant.code,
        "error": participant.error,
        "wasm_digest": participant.wasm_digest,
        "launched_at": participant.launched_at,
        "ended_at": participant.ended_at,
    }
    return {"proplet_id": participant.proplet_id, **values} if identity else values


def _participant(row: Row[Any]) -> Participant:
    return Participant(
        proplet_id=row.proplet_id,
        state=ParticipantState(row.state),
        task_id=row.task_id,
        code=row.code,
        error=row.error,
        wasm_digest=row.wasm_digest,
        launched_at=row.launched_at,
        ended_at=row.ended_at,
    )
