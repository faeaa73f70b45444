"""What proplets say of their attempts: read, checked against who says it, and acknowledged once it is durable."""

from __future__ import annotations

import json

from manager.fleet.complaints import Complaints
from manager.fleet.proplets import Proplets
from manager.large_results import Stored
from manager.state.ledger import Ledger
from manager.state.records import AttemptKey
from manager.state.states import AttemptEvent
from manager.work import denials, reports
from manager.work.acks import Acks
from manager.work.attempts import Attempts
from manager.work.load import Load
from manager.work.runs import Outcome
from swashplate.bus import Bus, Received
from swashplate.messages import AttemptStatus, Result
from swashplate.topics import Topics


class Inbox:
    def __init__(
        self,
        bus: Bus,
        names: Topics,
        ledger: Ledger,
        proplets: Proplets,
        load: Load,
        attempts: Attempts,
        acks: Acks,
        stored: Stored,
    ) -> None:
        self._bus = bus
        self._topics = names
        self._ledger = ledger
        self._proplets = proplets
        self._load = load
        self._attempts = attempts
        self._acks = acks
        self._stored = stored
        self._complaints = Complaints()

    async def open(self) -> None:
        """Declare the subscriptions; call before the bus connects."""
        await self._bus.subscribe(self._topics.every_proplet("status"), self._status)
        await self._bus.subscribe(self._topics.every_proplet("results"), self._result)

    async def close(self) -> None:
        self._complaints.close()

    async def _status(self, message: Received) -> None:
        said = AttemptStatus.decode(message.payload)
        sender = self._proplets.checked_sender(message, said.proplet_id)
        key = AttemptKey(said.task_id, said.attempt)
        match said.status:
            case "progress":
                self._attempts.progressed(sender, key, said.stage)
                return
            case "accepted":
                self._attempts.accepted(sender, key)
            case "ready":
                self._attempts.accepted(sender, key, ready=True)
            case "denied":
                self._complaints.warn("start denied", sender, task_id=key.task_id, reason=said.reason, code=said.code)
                self._denied(sender, key, said.code or "denied", said.reason)
        self._acks.acknowledge(sender, said.id)

    def _denied(self, sender: str, key: AttemptKey, code: str, reason: str) -> None:
        if code == "no_slot":
            self._load.full(sender)
        error = ": ".join(filter(None, (f"{sender} denied", code, reason)))
        final = code in denials.BY_POLICY and not self._others_left(sender, key)
        outcome = Outcome(AttemptEvent.DENIED, None, error, code, True, final=final)
        self._attempts.finish(key, outcome, sender=sender)

    def _others_left(self, sender: str, key: AttemptKey) -> bool:
        """Does anybody live whose policy has not refused it yet?"""
        task, attempt = self._ledger.task(key.task_id), self._ledger.attempt(key)
        if task is None or attempt is None or attempt.target is not None:
            return False
        refused = denials.by_policy(self._ledger.attempts_of(task.id), attempt.target) | {sender}
        return self._load.anybody(task, refused)

    async def _result(self, message: Received) -> None:
        said = Result.decode(message.payload)
        sender = self._proplets.checked_sender(message, said.proplet_id)
        key = AttemptKey(said.task_id, said.attempt)
        self._attempts.finish(key, self._outcome(key, said), sender=sender)
        self._acks.acknowledge(sender, said.id)

    def _outcome(self, key: AttemptKey, said: Result) -> Outcome:
        report = reports.kept(said.report)
        if said.error:
            event = AttemptEvent.INTERRUPTED if said.code == "stopped" else AttemptEvent.FAILED
            code = said.code or "failed"
            return Outcome(event, json.dumps(said.results), said.error, code, said.retryable, report=report)
        if said.results_digest is None:
            return Outcome(AttemptEvent.COMPLETED, json.dumps(said.results), report=report)
        result = self._stored(key, said.results_digest, said.results_size)
        if result is not None:
            return Outcome(AttemptEvent.COMPLETED, result, report=report)
        # What is not here now will not come any more.
        missing = f"its result {said.results_digest} was never uploaded"
        return Outcome(AttemptEvent.FAILED, None, missing, "result_missing", True, report=report)
