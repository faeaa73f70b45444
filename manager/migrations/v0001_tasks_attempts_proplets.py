"""Tasks, attempts, proplets: the tables from before there were migrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("digest", sa.String),
        sa.Column("size", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("proplet_id", sa.String),
        sa.Column("idempotency_key", sa.String, unique=True),
        sa.Column("fingerprint", sa.LargeBinary),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("code", sa.String),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
    )
    op.create_index("tasks_by_age", "tasks", ["created_at"])
    op.create_table(
        "attempts",
        sa.Column("task_id", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("proplet_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("deadline", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("code", sa.String),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("accepted_at", sa.Float),
        sa.Column("finished_at", sa.Float),
    )
    op.create_index("attempts_by_state", "attempts", ["state"])
    op.create_table(
        "proplets",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("last_seen", sa.Float, nullable=False),
    )
