"""Numbers and children."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("numbers", sa.Column("n", sa.Integer, primary_key=True), sa.Column("word", sa.String))
    op.create_table(
        "children",
        sa.Column("n", sa.Integer, sa.ForeignKey("numbers.n", deferrable=True, initially="DEFERRED"), primary_key=True),
    )
