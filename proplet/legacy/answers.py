"""What a Propeller manager is told of a task that has ended."""

from __future__ import annotations

import json
from typing import Any

from proplet.legacy.results import Kept
from proplet.work.outcome import Failure, Large, Learned, Outcome, Success
from swashplate.messages.legacy import LegacyLearned, LegacyResult, LegacyStart


def of(start: LegacyStart, proplet_id: str, outcome: Outcome) -> Kept:
    match outcome:
        case Success(results):
            text = results if isinstance(results, str) else json.dumps(results)
            return Kept(start.id, LegacyResult(task_id=start.id, proplet_id=proplet_id, results=text).encode())
        case Large():  # there is nobody to upload it to: the start had no token for that
            raise AssertionError("a large result")
        case Learned(update, results):
            learned = _learned(start, proplet_id, update, results)
            return Kept(start.id, LegacyResult(task_id=start.id, results=learned).encode(), update)
        case Failure(error):
            return failed(start, proplet_id, error)


def failed(start: LegacyStart, proplet_id: str, error: str) -> Kept:
    if start.round_id:
        result = LegacyResult(task_id=start.id, results=_learned(start, proplet_id, b"", {}), error=error)
    else:
        result = LegacyResult(task_id=start.id, proplet_id=proplet_id, results="", error=error)
    return Kept(start.id, result.encode())


def instead(kept: Kept, error: str) -> bytes:
    """The same result, failed and without its content."""
    said = LegacyResult.decode(kept.payload)
    results = {**said.results, "update_b64": ""} if isinstance(said.results, dict) else ""
    return said.model_copy(update={"results": results, "error": error}).encode()


def _learned(start: LegacyStart, proplet_id: str, update: bytes, results: dict[str, Any]) -> dict[str, Any]:
    said = LegacyLearned.of(
        update,
        task_id=start.id,
        round_id=start.round_id,
        proplet_id=proplet_id,
        num_samples=results.get("num_samples", 1),
        format=start.env.get("FL_FORMAT") or "f32-delta",
        metrics=results.get("metrics", {}),
    )
    return said.model_dump()
