"""What a proplet has on its disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def state_on_disk(folder: Path, task_id: str) -> str | None:
    """Of the attempt of ``task_id``, in the journal of the proplet whose state is in ``folder``; None when it is not there."""
    with closing(sqlite3.connect(folder / "journal.db")) as database:
        row = database.execute("SELECT state FROM entry WHERE task_id = ?", (task_id,)).fetchone()
    return row and row[0]
