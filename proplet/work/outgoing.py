"""What the proplet tells the manager about attempts and invocations, ready to be sent."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from proplet.work.outcome import Failure, Large, Learned, Outcome, Success
from swashplate.messages import AttemptStatus, InvokeResult, Result, RunReport
from swashplate.messages.control import Stage

RESULTS, INVOKE_RESULTS, STATUS = "results", "invoke_results", "status"


class Ref(NamedTuple):
    """One attempt of one task or, when ``invocation`` is not empty, one call of the task that the attempt deployed."""

    task_id: str
    attempt: int
    invocation: str = ""

    @property
    def deployment(self) -> Ref:
        return Ref(self.task_id, self.attempt)

    @property
    def result_id(self) -> str:
        """The id follows from what is said, so that saying it again is the same message."""
        return "/".join([self.task_id, str(self.attempt), *([self.invocation] if self.invocation else []), "result"])


class Outgoing(NamedTuple):
    """A message for the manager; ``kind`` is the last level of its topic."""

    id: str
    kind: str
    ref: Ref
    payload: bytes


def result_of(ref: Ref, payload: bytes) -> Outgoing:
    return Outgoing(ref.result_id, INVOKE_RESULTS if ref.invocation else RESULTS, ref, payload)


def status_message(
    ref: Ref,
    proplet_id: str,
    status: Literal["accepted", "ready", "denied", "progress"],
    *,
    stage: Stage = "",
    code: str = "",
    reason: str = "",
) -> Outgoing:
    said = AttemptStatus(
        id=f"{ref.task_id}/{ref.attempt}/{status}",
        task_id=ref.task_id,
        attempt=ref.attempt,
        proplet_id=proplet_id,
        status=status,
        stage=stage,
        code=code,
        reason=reason,
    )
    return Outgoing(said.id, STATUS, ref, said.encode())


def result_message(ref: Ref, proplet_id: str, outcome: Outcome, report: RunReport | None = None) -> Outgoing:
    """An update that was learned, and a large result, count as delivered."""
    said: dict[str, Any] = {"task_id": ref.task_id, "attempt": ref.attempt, "proplet_id": proplet_id}
    match outcome:
        case Success(results) | Learned(_, results):
            said["results"] = results
        case Large(digest, size):
            said |= {"results_digest": digest, "results_size": size}
        case Failure(error, code, retryable):
            said |= {"error": error, "code": code, "retryable": retryable}
    message: Result | InvokeResult
    if ref.invocation:
        message = InvokeResult(id=ref.result_id, invocation_id=ref.invocation, report=report, **said)
    else:
        message = Result(id=ref.result_id, report=report, **said)
    return result_of(ref, message.encode())
