"""HTTP to other services (``HttpClient``), and the manager's API for programs: ``Client`` and ``SyncClient``.

Each name is imported when it is first used, so that a command line which only shows its help does not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swashplate.client.answers import (
        Acknowledged,
        Answer,
        Attempt,
        Experiment,
        Invocation,
        Job,
        LogPart,
        Metric,
        Page,
        Proplet,
        Report,
        Results,
        Round,
        Seen,
        Started,
        Task,
        Workflow,
    )
    from swashplate.client.client import Client
    from swashplate.client.http import HttpClient, TokenRefusedError, UnreachableError, error_of, reason_of
    from swashplate.client.sync import SyncClient

__all__ = [
    "Acknowledged",
    "Answer",
    "Attempt",
    "Client",
    "Experiment",
    "HttpClient",
    "Invocation",
    "Job",
    "LogPart",
    "Metric",
    "Page",
    "Proplet",
    "Report",
    "Results",
    "Round",
    "Seen",
    "Started",
    "SyncClient",
    "Task",
    "TokenRefusedError",
    "UnreachableError",
    "Workflow",
    "error_of",
    "reason_of",
]

_ELSEWHERE = {
    "Client": "client",
    "SyncClient": "sync",
    **dict.fromkeys(("HttpClient", "TokenRefusedError", "UnreachableError", "error_of", "reason_of"), "http"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'answers')}"), name)
