"""Models and their uses: the tables from before there were migrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("line", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("round_id", sa.String),
        sa.Column("details", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("line", "version"),
        sa.UniqueConstraint("line", "round_id"),
    )
    op.create_table(
        "uses",
        sa.Column("line", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("round_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("line", "version", "round_id"),
        sa.ForeignKeyConstraint(["line", "version"], ["models.line", "models.version"]),
    )
