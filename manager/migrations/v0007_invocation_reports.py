"""An invocation has the report of its run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("invocations", sa.Column("report", sa.Text))
