"""Runs, jobs and workflows, and what tasks are counted and found by.

There were no runs before: a new one began with whatever attempt cannot have been a retry. An attempt whose image was being
resolved waits in the queue again; the others stay as they are with their proplet.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CHUNK = 1000
_DEFAULTS: dict[str, Any] = {
    "kind": "standard",
    "image_url": "",
    "file": "",
    "inputs": [],
    "env": {},
    "dataset": "",
    "priority": 50,
    "metadata": {},
    "timeout_s": 300.0,
    "retries": 0,
    "tokens": {},
    "start": False,
}
_ENDS_A_RUN = {"completed", "interrupted"}


def upgrade() -> None:
    for table in ("tasks", "attempts"):
        op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")  # noqa: S608
        op.drop_table(table)
    op.create_index("old_attempts_of_task", "old_attempts", ["task_id"])
    tasks, attempts, _ = _tables()
    task_metadata, task_counts = _catalogue()
    _copy(op.get_bind(), tasks, attempts, task_metadata, task_counts)
    op.drop_table("old_attempts")
    op.drop_table("old_tasks")


def _tables() -> tuple[sa.Table, sa.Table, sa.Table]:
    tasks = op.create_table(
        "tasks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("spec_text", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("digest", sa.String),
        sa.Column("size", sa.Integer),
        sa.Column("proplet_id", sa.String),
        sa.Column("group_id", sa.String),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("idempotency_key", sa.String, unique=True),
        sa.Column("fingerprint", sa.LargeBinary),
        sa.Column("next_run", sa.Float),
        sa.Column("stopping", sa.Boolean, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("code", sa.String),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
    )
    op.create_index("tasks_by_state", "tasks", ["state", "seq"])
    op.create_index("tasks_by_name", "tasks", ["name", "seq"])
    op.create_index("tasks_by_group", "tasks", ["group_id"])
    op.create_index("tasks_by_next_run", "tasks", ["next_run"])
    op.create_index("tasks_by_end", "tasks", ["finished_at"])
    op.create_index("tasks_by_digest", "tasks", ["digest"])
    attempts = op.create_table(
        "attempts",
        sa.Column("task_id", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("target", sa.String),
        sa.Column("proplet_id", sa.String),
        sa.Column("retry", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float),
        sa.Column("offered_at", sa.Float),
        sa.Column("accepted_at", sa.Float),
        sa.Column("stop_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("code", sa.String),
    )
    groups = op.create_table(
        "groups",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
    )
    op.create_index("groups_by_age", "groups", ["kind", "created_at"])
    return tasks, attempts, groups


def _catalogue() -> tuple[sa.Table, sa.Table]:
    task_metadata = op.create_table(
        "task_metadata",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    task_counts = op.create_table(
        "task_counts",
        sa.Column("facet", sa.String, primary_key=True),
        sa.Column("value", sa.String, primary_key=True),
        sa.Column("state", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    return task_metadata, task_counts


def _copy(
    connection: sa.Connection, tasks: sa.Table, attempts: sa.Table, task_metadata: sa.Table, task_counts: sa.Table
) -> None:
    counts: Counter[tuple[str, str, int]] = Counter()
    seq = 0
    old_attempts = sa.table("old_attempts", sa.column("task_id"), sa.column("number"))
    every = connection.execute(sa.text("SELECT * FROM old_tasks ORDER BY created_at, id"))
    for part in every.mappings().partitions(_CHUNK):
        wanted = sa.select(sa.text("*")).select_from(old_attempts)
        wanted = wanted.where(old_attempts.c.task_id.in_([row["id"] for row in part])).order_by(old_attempts.c.number)
        of_task: dict[str, list[Any]] = defaultdict(list)
        for row in connection.execute(wanted).mappings():
            of_task[row["task_id"]].append(row)
        new_tasks: list[dict[str, Any]] = []
        new_attempts: list[dict[str, Any]] = []
        new_metadata: list[dict[str, Any]] = []
        for row in part:
            seq += 1
            spec = json.loads(row["spec"])
            own = _attempts(of_task[row["id"]], spec, row["result"])
            new_attempts += own
            new_tasks.append(_task(row, seq, spec, own))
            counts["", "", row["state"]] += 1
            counts["name", spec["name"], row["state"]] += 1
            for key, value in spec["metadata"].items():
                facet = "metadata." + _short(key), _short(value)
                counts[*facet, row["state"]] += 1
                new_metadata.append({"key": facet[0], "value": facet[1], "seq": seq})
        connection.execute(sa.insert(tasks), new_tasks)
        if new_attempts:
            connection.execute(sa.insert(attempts), new_attempts)
        if new_metadata:
            connection.execute(sa.insert(task_metadata), new_metadata)
    if counts:
        rows = [{"facet": facet, "value": value, "state": state, "n": n} for (facet, value, state), n in counts.items()]
        connection.execute(sa.insert(task_counts), rows)


def _task(row: Any, seq: int, spec: dict[str, Any], attempts: list[dict[str, Any]]) -> dict[str, Any]:
    said = {key: value for key, value in spec.items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
    waits = bool(attempts) and attempts[-1]["state"] == "queued"
    kept = ("id", "state", "created_at", "updated_at", "attempt", "digest", "size", "idempotency_key")
    return {
        **{name: row[name] for name in (*kept, "result", "error", "code", "started_at", "finished_at")},
        "seq": seq,
        "name": spec["name"],
        "spec_text": _text({key: value for key, value in said.items() if key != "start"}),
        "run": attempts[-1]["run"] if attempts else 0,
        "proplet_id": None if waits else row["proplet_id"],
        "group_id": None,
        "position": 0,
        "fingerprint": _fingerprint(said, row["fingerprint"]),
        "next_run": None,
        "stopping": False,
    }


def _attempts(rows: list[Any], spec: dict[str, Any], result: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    run, retry, before = 0, 0, "completed"
    for row in rows:
        if before in _ENDS_A_RUN or retry >= spec["retries"]:
            run, retry = run + 1, 0
        else:
            retry += 1
        before = row["state"]
        waits = before == "resolving"
        found.append(
            {
                **{name: row[name] for name in ("task_id", "number", "created_at", "accepted_at", "finished_at")},
                "run": run,
                "state": "queued" if waits else before,
                "target": spec.get("proplet_id"),
                "proplet_id": None if waits else row["proplet_id"],
                "retry": retry,
                "not_before": 0.0,
                "deadline": None if waits else row["deadline"],
                "offered_at": None if waits else row["created_at"],
                "stop_at": None,
                "result": result if row is rows[-1] and before == "completed" else None,
                "error": row["error"],
                "code": row["code"],
            }
        )
    return found


def _fingerprint(said: dict[str, Any], known: bytes | None) -> bytes | None:
    """It is made of what is not the default now. Of an uploaded file only the digest is left, so that stays."""
    if known is None or said.get("file"):
        return known
    text = _text({key: value for key, value in said.items() if key != "timeout_s"})
    return hashlib.sha256(text.encode()).digest()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _short(value: Any) -> str:
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))
    return text if len(text) <= 200 else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return value
