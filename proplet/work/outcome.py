"""How an attempt or an invocation ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from swashplate import logging

log = logging.get("task")

LOGGED_CHARACTERS = 500


@dataclass(frozen=True)
class Success:
    results: Any


@dataclass(frozen=True)
class Large:
    """A result that is too large for a message: a file of JSON in the proplet's store of results; ``size`` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Learned:
    """``update`` is for the coordinator, ``results`` for the manager once the coordinator has it."""

    update: bytes
    results: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    error: str
    code: str
    retryable: bool = False


Outcome = Success | Large | Learned | Failure

STOPPED = Failure("stopped", "stopped")


def log_outcome(task_id: str, outcome: Outcome) -> None:
    match outcome:
        case Failure(error, code):
            log.error("Task %s failed: %s", task_id, error, task_id=task_id, code=code)
            return
        case Learned(update):
            shown = update[: 4 * LOGGED_CHARACTERS].decode(errors="replace")
        case Large(digest, size):
            shown = f"{digest}, {size} bytes"
        case Success(results):
            shown = results if isinstance(results, str) else json.dumps(results)
    log.info("Task %s completed successfully. Result: %s", task_id, shown[:LOGGED_CHARACTERS], task_id=task_id)
