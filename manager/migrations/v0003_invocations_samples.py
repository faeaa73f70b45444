"""Invocations of latent tasks, and what proplets measure."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "invocations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("call", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("proplet_id", sa.String),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("retry", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("code", sa.String),
    )
    op.create_index("invocations_by_task", "invocations", ["task_id", "seq"])
    op.create_index("invocations_by_state", "invocations", ["state"])
    op.create_table(
        "samples",
        sa.Column("subject", sa.String, primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("sample", sa.Text, nullable=False),
    )
