"""Rounds, participants, updates: the tables from before there were migrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("round_id", sa.String, nullable=False, unique=True),
        sa.Column("config", sa.String, nullable=False),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("base_shapes", sa.String, nullable=False),
        sa.Column("k_of_n", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("error", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.Column("aggregating_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("model_version", sa.Integer),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("announced", sa.Boolean, nullable=False),
    )
    op.create_index("ix_rounds_state", "rounds", ["state"])
    op.create_table(
        "participants",
        sa.Column("round_id", sa.String, sa.ForeignKey("rounds.round_id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("proplet_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("error", sa.String, nullable=False),
        sa.Column("wasm_digest", sa.String, nullable=False),
        sa.Column("launched_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.PrimaryKeyConstraint("round_id", "proplet_id"),
    )
    op.create_table(
        "updates",
        sa.Column("round_id", sa.String, sa.ForeignKey("rounds.round_id"), nullable=False),
        sa.Column("proplet_id", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("num_samples", sa.Integer, nullable=False),
        sa.Column("metrics", sa.String, nullable=False),
        sa.Column("received_at", sa.Float, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("round_id", "proplet_id"),
    )
