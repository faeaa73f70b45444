"""The manager's tables. Who changes them adds a revision to ``manager/migrations``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

from swashplate.database import Schema

metadata = MetaData()
SCHEMA = Schema("manager", metadata, "manager.migrations")

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("spec_text", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("run", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("digest", String),
    Column("size", Integer),
    Column("proplet_id", String),
    Column("group_id", String),
    Column("position", Integer, nullable=False),
    Column("idempotency_key", String, unique=True),
    Column("fingerprint", LargeBinary),
    Column("next_run", Float),
    Column("stopping", Boolean, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
    Column("started_at", Float),
    Column("finished_at", Float),
)
Index("tasks_by_state", tasks.c.state, tasks.c.seq)
Index("tasks_by_name", tasks.c.name, tasks.c.seq)
Index("tasks_by_group", tasks.c.group_id)
Index("tasks_by_next_run", tasks.c.next_run)
Index("tasks_by_end", tasks.c.finished_at)
Index("tasks_by_digest", tasks.c.digest)

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("target", String),
    Column("proplet_id", String),
    Column("retry", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("deadline", Float),
    Column("offered_at", Float),
    Column("accepted_at", Float),
    Column("stop_at", Float),
    Column("finished_at", Float),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
    Column("report", Text),
)

groups = Table(
    "groups",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("state", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
)
Index("groups_by_age", groups.c.kind, groups.c.created_at)

invocations = Table(
    "invocations",
    metadata,
    Column("id", String, primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("task_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("call", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("deadline", Float, nullable=False),
    Column("number", Integer),
    Column("proplet_id", String),
    Column("turn", Integer, nullable=False),
    Column("retry", Integer, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("result", Text),
    Column("error", Text),
    Column("code", String),
    Column("report", Text),
)
Index("invocations_by_task", invocations.c.task_id, invocations.c.seq)
Index("invocations_by_state", invocations.c.state)

# Tasks of rounds that ended, and whose end the coordinator does not know yet.
untold = Table("untold", metadata, Column("task_id", String, primary_key=True))

# What was measured: per subject a ring of rows, the newest over the oldest.
samples = Table(
    "samples",
    metadata,
    Column("subject", String, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("sample", Text, nullable=False),
)

proplets = Table(
    "proplets",
    metadata,
    Column("id", String, primary_key=True),
    Column("description", Text, nullable=False),
    Column("last_seen", Float, nullable=False),
)

# What tasks are found and counted by: see manager/state/catalogue.py.

task_metadata = Table(
    "task_metadata",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

task_counts = Table(
    "task_counts",
    metadata,
    Column("facet", String, primary_key=True),
    Column("value", String, primary_key=True),
    Column("state", Integer, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
