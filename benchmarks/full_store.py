"""A manager's database with very many finished tasks, made by the database itself: the same SQL for both.

Half of the tasks are called ``add``, and one of ten failed. Each has the metadata ``team`` (one of ten), ``batch`` (a hundred
tasks each) and ``all`` (the same for each).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from manager.state.states import TaskState
from manager.state.tables import SCHEMA
from swashplate.database import Database

TEAMS, BATCH = 10, 100

_NUMBERS = (
    "WITH RECURSIVE numbers(n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)"
)
_ID = "'00000000-0000-4000-8000-' || substr('000000000000' || n, length('000000000000' || n) - 11)"
_NAME = "CASE WHEN n % 2 = 1 THEN 'add' ELSE 'task-' || (n % 50) END"
_TEAM = f"'team-' || (n % {TEAMS})"
_SPEC = (
    f"""'{{"name":"' || {_NAME} || '","image_url":"local-registry:5000/add:1","inputs":["2","40"],"metadata":'"""
    f""" || '{{"team":"' || {_TEAM} || '","batch":' || (n / {BATCH}) || ',"all":"yes"}}}}'"""
)
_FAILED = "n % 10 = 0"
_AT = "CAST(:began AS FLOAT) + n"

_FILL = f"""
INSERT INTO tasks (id, seq, name, spec_text, state, created_at, updated_at, run, attempt, digest, size, proplet_id,
    position, stopping, result, error, code, started_at, finished_at)
{_NUMBERS}
SELECT {_ID}, n, {_NAME}, {_SPEC},
    CASE WHEN {_FAILED} THEN {int(TaskState.FAILED)} ELSE {int(TaskState.COMPLETED)} END, {_AT}, {_AT} + 0.01, 1, 1,
    'sha256:{"ab" * 32}', 1234, 'proplet-' || (n % 7), 0, false,
    CASE WHEN {_FAILED} THEN NULL ELSE '"42"' END, CASE WHEN {_FAILED} THEN 'the guest trapped' END,
    CASE WHEN {_FAILED} THEN 'trap:unreachable' END, {_AT} + 0.002, {_AT} + 0.01
FROM numbers;
INSERT INTO attempts (task_id, number, run, state, created_at, proplet_id, retry, not_before, deadline, offered_at,
    accepted_at, finished_at, result, error, code)
SELECT id, 1, 1, CASE WHEN error IS NULL THEN 'completed' ELSE 'failed' END, created_at, proplet_id, 0, 0,
    created_at + 300, created_at + 0.001, started_at, finished_at, result, error, code
FROM tasks ORDER BY id;
INSERT INTO task_metadata (key, value, seq) SELECT 'metadata."all"', '"yes"', seq FROM tasks ORDER BY seq;
INSERT INTO task_metadata (key, value, seq)
SELECT 'metadata."batch"', CAST(seq / {BATCH} AS VARCHAR), seq FROM tasks ORDER BY 2, 3;
INSERT INTO task_metadata (key, value, seq)
SELECT 'metadata."team"', '"team-' || (seq % {TEAMS}) || '"', seq FROM tasks ORDER BY 2, 3;
INSERT INTO task_counts (facet, value, state, n)
SELECT key, value, state, count(*) FROM task_metadata JOIN tasks ON tasks.seq = task_metadata.seq GROUP BY key, value, state;
INSERT INTO task_counts (facet, value, state, n) SELECT 'name', name, state, count(*) FROM tasks GROUP BY name, state;
INSERT INTO task_counts (facet, value, state, n) SELECT '', '', state, count(*) FROM tasks GROUP BY state
"""


async def fill(url: URL, count: int) -> None:
    """Into a database that has no tasks yet."""
    began = time.time() - count - 3600

    def work(db: Connection) -> None:
        for statement in _FILL.split(";\n"):
            named = {name: value for name, value in (("count", count), ("began", began)) if f":{name}" in statement}
            db.execute(text(statement), named)

    async with Database(url, SCHEMA) as database:
        await database.run(work)
    if url.get_backend_name() == "postgresql":
        await asyncio.to_thread(_settle, url)


def _settle(url: URL) -> None:
    """What the server would come to by itself, some minutes later."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for table in SCHEMA.metadata.tables:
            connection.execute(text(f"VACUUM ANALYZE {SCHEMA.service}.{table}"))
        with contextlib.suppress(DBAPIError):  # the user may not be allowed to
            connection.execute(text("CHECKPOINT"))
    engine.dispose()
