"""The ids in paths and queries, in their one spelling."""

from __future__ import annotations

from dataclasses import dataclass

from swashplate.http import Text
from swashplate.ids import canonical


@dataclass(frozen=True, kw_only=True)
class Id(Text):
    """An id of a task, an invocation, a job or a workflow; a UUID may be spelt in upper case or without hyphens."""

    longest: int = 256

    def parsed(self, text: str) -> str:
        return canonical(super().parsed(text))


TASK_ID = Id(name="task_id", text="The task.", place="path")
