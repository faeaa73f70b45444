"""How many tasks of a group have ended is found in an index. Samples whose task had been deleted before they came are removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    in_a_group = sa.text("group_id IS NOT NULL")
    op.drop_index("tasks_by_group", "tasks")
    op.create_index(
        "tasks_by_group", "tasks", ["group_id", "state"], sqlite_where=in_a_group, postgresql_where=in_a_group
    )
    for kind, table in (("task", "tasks"), ("proplet", "proplets")):
        op.execute(
            f"DELETE FROM samples WHERE subject LIKE '{kind} %'"  # noqa: S608
            f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE '{kind} ' || {table}.id = samples.subject)"
        )
