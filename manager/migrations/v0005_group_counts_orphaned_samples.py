"""Tasks are counted by group, too. Samples whose task had been deleted before they came are removed."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        "INSERT INTO task_counts (facet, value, state, n)"
        " SELECT 'group', group_id, state, count(*) FROM tasks WHERE group_id IS NOT NULL GROUP BY group_id, state"
    )
    for kind, table in (("task", "tasks"), ("proplet", "proplets")):
        op.execute(
            f"DELETE FROM samples WHERE subject LIKE '{kind} %'"  # noqa: S608
            f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE '{kind} ' || {table}.id = samples.subject)"
        )
