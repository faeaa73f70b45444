"""Propeller's proplets: registered, started, stopped and heard on the topics that all of them share.

There an id is what a payload says. So only a proplet that registered there may be named there, one that has its own topics
never; and as nothing is confirmed, a start that the broker has counts as accepted and only heartbeats keep its lease.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

from manager.fleet.histories import Histories
from manager.fleet.proplet import Proplet
from manager.fleet.proplets import Proplets
from manager.latent.calls import Answer
from manager.latent.invocations import Invocations
from manager.state.ledger import Ledger
from manager.state.records import Attempt, Invocation, Task
from manager.state.results import is_whole
from manager.state.states import AttemptEvent
from manager.work.attempts import Attempts
from manager.work.dialects import ParentsOf
from manager.work.leases import Leases
from manager.work.runs import Outcome
from swashplate import logging
from swashplate.blobs import BlobStore
from swashplate.bus import Bus, Received
from swashplate.errors import ForbiddenError, InvalidRequestError, TooLargeError
from swashplate.messages import Capabilities, Update
from swashplate.messages.legacy import (
    OFFLINE,
    LegacyAlive,
    LegacyCreate,
    LegacyInvoke,
    LegacyInvokeResult,
    LegacyLearned,
    LegacyMetrics,
    LegacyResult,
    LegacyStart,
    LegacyStop,
    LegacyTaskMetrics,
)
from swashplate.service import Tasks
from swashplate.topics import SHARED_QOS, Topics, last_level

log = logging.get("legacy")

LOOK_AGAIN_S = 1.0
MOST_IN_ENV = 64 * 1024
"""Bytes: Linux starts no process with an entry above 128 KiB."""


class SharedTopics:
    """What is said there goes to every proplet, each of which looks whether it is meant."""

    confirms = False

    def __init__(
        self, bus: Bus, names: Topics, blobs: BlobStore, ledger: Ledger, proplets: Proplets, parents: ParentsOf
    ) -> None:
        self._parents = parents
        self._bus = bus
        self._topics = names
        self._blobs = blobs
        self._ledger = ledger
        self._proplets = proplets

    async def start(self, task: Task, attempt: Attempt, *, again: bool) -> None:
        assert attempt.proplet_id is not None
        parents = await self._parents_of(task)
        message = LegacyStart(
            id=task.id,
            name=task.spec.name,
            image_url=task.spec.image_url,
            file=await self._file(task),
            inputs=task.spec.inputs,
            cli_args=task.spec.cli_args or [],
            env=_with_parents(task.spec.env, parents),
            parent_results=parents,
            daemon=task.spec.daemon,
            latent=task.spec.latent,
            encrypted=task.spec.encrypted,
            kbs_resource_path=task.spec.kbs_resource_path,
            hal_storage_path=task.spec.hal_storage_path,
            monitoring_profile=_profile(task),
            proplet_id=attempt.proplet_id,
        )
        payload = message.encode()
        self._refuse_too_large(task, len(payload))
        await self._bus.publish(self._topics.shared_to_proplets("start"), payload, qos=SHARED_QOS)

    async def stop(self, attempt: Attempt) -> None:
        assert attempt.proplet_id is not None
        if not self.stops_alone(attempt):
            log.warning(
                "not stopped: others run this task, too", task_id=attempt.task_id, proplet_id=attempt.proplet_id
            )
            return
        message = LegacyStop(id=attempt.task_id, proplet_id=attempt.proplet_id)
        await self._bus.publish(self._topics.shared_to_proplets("stop"), message.encode(), qos=SHARED_QOS)

    def stops_alone(self, attempt: Attempt) -> bool:
        """A proplet that hears a stop ends the task that it names, whichever proplet it names."""
        return not any(
            each.number != attempt.number
            and not each.state.ended
            and each.proplet_id is not None
            and self._proplets.is_legacy(each.proplet_id)
            for each in self._ledger.attempts_of(attempt.task_id)
        )

    async def invoke(self, task: Task, invocation: Invocation) -> None:
        assert invocation.proplet_id is not None
        call = json.loads(invocation.call)
        message = LegacyInvoke(
            id=task.id,
            proplet_id=invocation.proplet_id,
            invocation_id=invocation.id,
            inputs=call["inputs"],
            env=call["env"],
        )
        await self._bus.publish(self._topics.shared_to_proplets("invoke"), message.encode(), qos=SHARED_QOS)

    async def _parents_of(self, task: Task) -> dict[str, Any]:
        found = await self._parents(task)
        if found.digest is None:
            return found.results
        self._refuse_too_large(task, found.size)
        content = await asyncio.to_thread(self._blobs.read, found.digest)
        return dict(json.loads(content))

    async def _file(self, task: Task) -> str:
        """An uploaded file travels in the start: such a proplet knows no other way."""
        if not task.spec.file:
            return ""
        self._refuse_too_large(task, 4 * -(-(task.size or 0) // 3))  # before it is read
        content = await asyncio.to_thread(self._blobs.read, task.spec.file)
        return base64.b64encode(content).decode()

    def _refuse_too_large(self, task: Task, size: int) -> None:
        if size > self._bus.max_payload:
            raise TooLargeError(
                f"the start of {task.id} would have {size} bytes with its file and its parents' results,"
                f" the broker takes at most {self._bus.max_payload}",
                code="file_too_large",
                hint="push the binary to a registry and name it by image_url, or use a proplet that is not legacy",
            )


class LegacyProplets:
    """Listens to what Propeller's proplets say, in one queue: what one of them says is handled in the order it was said."""

    def __init__(
        self,
        bus: Bus,
        names: Topics,
        proplets: Proplets,
        attempts: Attempts,
        invocations: Invocations,
        histories: Histories,
        ledger: Ledger,
        leases: Leases,
        *,
        slots: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._invocations = invocations
        self._histories = histories
        self._slots = slots
        self._clock = clock
        self._bus = bus
        self._topics = names
        self._proplets = proplets
        self._attempts = attempts
        self._ledger = ledger
        self._leases = leases
        self._work = Tasks(log)

    async def open(self) -> None:
        """Declare the subscription; call before the bus connects."""
        await self._bus.subscribe(self._topics.everything_shared_from_proplets, self._said)
        for proplet in self._proplets.list():
            if proplet.legacy:  # it may be some time until it registers again
                proplet.capabilities = proplet.capabilities.model_copy(update={"slots": self._slots})
        self._proplets.on_switch(self._switched)
        self._work.start(self._watch(), "leases of legacy proplets")

    async def close(self) -> None:
        await self._work.close()

    async def _said(self, message: Received) -> None:
        match last_level(message.topic):
            case "create":
                await self._created(LegacyCreate.decode(message.payload))
            case "alive":
                await self._reported(LegacyAlive.decode(message.payload))
            case "results":
                self._finished(LegacyResult.decode(message.payload))
                await self._ledger.durable()  # it is sent once, and the broker forgets it when this returns
            case "invoke_results":
                self._called(LegacyInvokeResult.decode(message.payload))
                await self._ledger.durable()
            case "metrics":
                self._measured(LegacyMetrics.decode(message.payload))
            case "task_metrics":
                self._measured_task(LegacyTaskMetrics.decode(message.payload))
            case kind:
                log.debug("not understood: %s", kind)

    async def _created(self, said: LegacyCreate) -> None:
        if said.status == OFFLINE:
            await self._gone(said.proplet_id)
            return
        known = self._proplets.known(said.proplet_id)
        if known is not None and not known.legacy:
            log.warning(
                "registration on the shared topics ignored: this proplet has its own",
                proplet_id=known.id,
                hint="give a Propeller proplet a client of its own",
            )
            return
        if known is not None:
            self._lost(known.id, "the proplet restarted while the task was running", "proplet_restarted")
        await self._register(said)

    async def _register(self, said: LegacyCreate) -> None:
        proplet = self._proplets.known(said.proplet_id) or Proplet(id=said.proplet_id)
        proplet.namespace, proplet.metadata = said.namespace, said.metadata
        proplet.capabilities = _capabilities(said, self._slots)
        proplet.legacy, proplet.last_seen, proplet.offline = True, self._clock(), False
        await self._proplets.register(proplet)

    async def _reported(self, said: LegacyAlive) -> None:
        if said.status == OFFLINE:
            await self._gone(said.proplet_id)
            return
        known = self._proplets.known(said.proplet_id)
        if known is None:
            # It registers once in its life, which may have been before ours.
            await self._register(LegacyCreate(proplet_id=said.proplet_id, namespace=said.namespace))
        elif known.legacy:
            await self._proplets.heard(known)
        else:
            log.debug("report on the shared topics ignored: this proplet has its own", proplet_id=known.id)

    async def _gone(self, proplet_id: str) -> None:
        """A last will. Services that are no proplets leave one here too; that makes no proplet of them."""
        known = self._proplets.known(proplet_id)
        if known is not None and known.legacy and not known.offline:
            await self._proplets.lost(known)

    def _finished(self, said: LegacyResult) -> None:
        """No attempt is named: it is the result of the task's current one, when that is with the sender."""
        sender = said.sender
        if not self._proplets.is_legacy(sender):
            raise ForbiddenError(
                f"{sender} may not answer for {said.task_id} on the shared topics", code="wrong_sender"
            )
        task = self._ledger.task(said.task_id)
        found = [each for each in self._ledger.attempts_of(said.task_id) if each.proplet_id == sender]
        if task is None or not found:
            log.info(
                "result of a task that it was not given, or that has ended", task_id=said.task_id, proplet_id=sender
            )
            return
        if task.spec.kind == "federated":
            _check_round(task, said)
        if task.spec.daemon and not said.error:
            # It says so when it has begun, and nothing at all when the guest ends.
            log.info("a daemon runs on a legacy proplet", task_id=task.id, proplet_id=sender)
            return
        result = json.dumps(said.results)
        if said.error:
            outcome = Outcome(AttemptEvent.FAILED, result, said.error, "failed")
        else:
            outcome = Outcome(AttemptEvent.COMPLETED, result)
        self._attempts.finish(found[-1].key, outcome, sender=sender)

    def _called(self, said: LegacyInvokeResult) -> None:
        sender = said.proplet_id
        if not self._proplets.is_legacy(sender):
            raise ForbiddenError(
                f"{sender} may not answer for {said.task_id} on the shared topics", code="wrong_sender"
            )
        result = json.dumps(said.results)
        if said.not_there:
            answer = Answer(result, said.error, "not_deployed", began=False)
        elif said.error:
            answer = Answer(result, said.error, "failed")
        else:
            answer = Answer(result)
        self._invocations.answered(sender, said.invocation_id, None, answer)

    def _measured(self, said: LegacyMetrics) -> None:
        if self._proplets.is_legacy(said.proplet_id):
            self._histories.of_proplet(said.proplet_id, said.model_dump())

    def _measured_task(self, said: LegacyTaskMetrics) -> None:
        if self._proplets.is_legacy(said.proplet_id):
            self._histories.of_task(said.proplet_id, said.task_id, said.model_dump(exclude_none=True))

    # Leases.

    async def _watch(self) -> None:
        """Nothing says which tasks such a proplet runs; while its heartbeats come, it is taken to run all it was given."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            for proplet in self._proplets.list():
                if proplet.legacy and self._leases.silent_for(proplet) > self._proplets.patience(proplet):
                    self._lost(proplet.id, "the proplet's heartbeats stopped", "lease_expired")

    async def _switched(self, proplet_id: str) -> None:
        self._lost(proplet_id, "the proplet has changed to topics of its own", "proplet_restarted")

    def _lost(self, proplet_id: str, reason: str, code: str) -> None:
        for key in self._attempts.accepted_by(proplet_id):
            self._attempts.finish(key, Outcome(AttemptEvent.EXPIRED, None, reason, code, retryable=True))


def _capabilities(said: LegacyCreate, slots: int) -> Capabilities:
    """What its description tells of them. It runs at once whatever it is given, so ``slots`` says how much that may be."""
    arch, memory = said.metadata.get("cpu_arch"), said.metadata.get("total_memory_bytes")
    return Capabilities(
        arch=arch if isinstance(arch, str) else "",
        memory_bytes=int(memory) if isinstance(memory, int | float) else 0,
        slots=slots,
    )


def _with_parents(env: dict[str, str], parents: dict[str, Any]) -> dict[str, str]:
    """Such a proplet does not read the field for them, so the guest reads them here, where they are small enough for that."""
    text = json.dumps(parents)
    return {**env, "PARENT_RESULTS": text} if parents and len(text) <= MOST_IN_ENV else env


def _profile(task: Task) -> dict[str, Any]:
    """Proplets read the interval as seconds, of which they take whole ones."""
    profile = task.spec.monitoring_profile
    if profile is None:
        return {}
    return {**profile.model_dump(), "interval": max(1, round(profile.interval_s))}


def _check_round(task: Task, said: LegacyResult) -> None:
    """Raises ``InvalidRequestError`` when what was learned belongs to another round than the task."""
    round_id = said.results.get("round_id") if isinstance(said.results, dict) else None
    if round_id is not None and round_id != task.spec.env.get("ROUND_ID"):
        raise InvalidRequestError(f"the result of {task.id} is for round {round_id}, its task for another")


def update_of(task: Task) -> bytes | None:
    """The update that a legacy proplet sent inside its result; None when there is none that can be read."""
    results = json.loads(task.result) if task.result and is_whole(task.result) else None
    if not isinstance(results, dict) or "update_b64" not in results:
        return None
    try:
        printed = LegacyLearned.model_validate(results).printed()
        Update.decode(printed)
    except (InvalidRequestError, ValueError) as error:
        log.warning("the result carries no update that can be read", task_id=task.id, reason=str(error))
        return None
    return printed
