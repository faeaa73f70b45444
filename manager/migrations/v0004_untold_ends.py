"""Which ends of tasks the coordinator is still to be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table("untold", sa.Column("task_id", sa.String, primary_key=True))
