"""Propeller's proplets: registered, started, stopped and heard on the topics that all of them share.

There an id is what a payload says. So only a proplet that registered there may be named there, one that has its own topics
never; and as nothing is confirmed, a start that the broker has counts as accepted and only heartbeats keep its lease.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time

from manager.attempts import Attempts
from manager.ledger import Ledger
from manager.proplets import Proplet, Proplets
from manager.records import Attempt, Task
from manager.runs import Outcome
from manager.states import AttemptEvent
from swashplate import logging
from swashplate.blobs import BlobStore
from swashplate.bus import Bus, Received
from swashplate.errors import ForbiddenError, InvalidRequestError, TooLargeError
from swashplate.messages import Capabilities, Update
from swashplate.messages.legacy import (
    OFFLINE,
    LegacyAlive,
    LegacyCreate,
    LegacyLearned,
    LegacyReport,
    LegacyResult,
    LegacyStart,
    LegacyStop,
)
from swashplate.service import Tasks
from swashplate.topics import SHARED_QOS, Topics, last_level

log = logging.get("legacy")

LOOK_AGAIN_S = 1.0


class SharedTopics:
    """What is said there goes to every proplet, each of which looks whether it is meant."""

    confirms = False

    def __init__(self, bus: Bus, names: Topics, blobs: BlobStore) -> None:
        self._bus = bus
        self._topics = names
        self._blobs = blobs

    async def start(self, task: Task, attempt: Attempt) -> None:
        assert attempt.proplet_id is not None
        message = LegacyStart(
            id=task.id,
            name=task.spec.name,
            image_url=task.spec.image_url,
            file=await self._file(task),
            inputs=task.spec.inputs,
            cli_args=task.spec.cli_args or [],
            env=task.spec.env,
            daemon=task.spec.daemon,
            latent=task.spec.latent,
            encrypted=task.spec.encrypted,
            kbs_resource_path=task.spec.kbs_resource_path,
            hal_storage_path=task.spec.hal_storage_path,
            proplet_id=attempt.proplet_id,
        )
        payload = message.encode()
        self._refuse_too_large(task, len(payload))
        await self._bus.publish(self._topics.shared_to_proplets("start"), payload, qos=SHARED_QOS)

    async def stop(self, attempt: Attempt) -> None:
        assert attempt.proplet_id is not None
        message = LegacyStop(id=attempt.task_id, proplet_id=attempt.proplet_id)
        await self._bus.publish(self._topics.shared_to_proplets("stop"), message.encode(), qos=SHARED_QOS)

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
                f"the start of {task.id} would have {size} bytes with its file in base64,"
                f" the broker takes at most {self._bus.max_payload}",
                code="file_too_large",
                hint="push the binary to a registry and name it by image_url, or use a proplet that is not legacy",
            )


class LegacyProplets:
    """Listens to what Propeller's proplets say, in one queue: what one of them says is handled in the order it was said."""

    def __init__(self, bus: Bus, names: Topics, proplets: Proplets, attempts: Attempts, ledger: Ledger) -> None:
        self._bus = bus
        self._topics = names
        self._proplets = proplets
        self._attempts = attempts
        self._ledger = ledger
        self._work = Tasks(log)
        self._awake_since = time.time()

    async def open(self) -> None:
        """Declare the subscription; call before the bus connects."""
        await self._bus.subscribe(self._topics.everything_shared_from_proplets, self._said)
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
                await self._finished(LegacyResult.decode(message.payload))
            case "metrics" | "task_metrics" as kind:
                report = LegacyReport.decode(message.payload)
                log.debug(
                    "not kept: %s", kind, proplet_id=report.proplet_id, task_id=report.task_id, at=report.timestamp
                )
            case kind:
                log.debug("not understood: %s", kind)

    async def _created(self, said: LegacyCreate) -> None:
        if said.status == OFFLINE:
            self._gone(said.proplet_id)
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
        proplet = Proplet(
            id=said.proplet_id,
            namespace=said.namespace,
            metadata=said.metadata,
            capabilities=_capabilities(said),
            legacy=True,
            last_seen=time.time(),
            offline=False,
        )
        await self._proplets.register(proplet)

    async def _reported(self, said: LegacyAlive) -> None:
        if said.status == OFFLINE:
            self._gone(said.proplet_id)
            return
        known = self._proplets.known(said.proplet_id)
        if known is None:
            # It registers once in its life, which may have been before ours.
            await self._register(LegacyCreate(proplet_id=said.proplet_id, namespace=said.namespace))
        elif known.legacy:
            known.last_seen, known.offline = time.time(), False
        else:
            log.debug("report on the shared topics ignored: this proplet has its own", proplet_id=known.id)

    def _gone(self, proplet_id: str) -> None:
        """A last will. Services that are no proplets leave one here too; that makes no proplet of them."""
        known = self._proplets.known(proplet_id)
        if known is not None and known.legacy and not known.offline:
            known.offline = True
            log.warning("proplet went offline", proplet_id=known.id, name=known.name)

    async def _finished(self, said: LegacyResult) -> None:
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
        result = json.dumps(said.results)
        if said.error:
            outcome = Outcome(AttemptEvent.FAILED, result, said.error, "failed")
        else:
            outcome = Outcome(AttemptEvent.COMPLETED, result)
        self._attempts.finish(found[-1].key, outcome, sender=sender)

    # Leases.

    async def _watch(self) -> None:
        """Nothing says which tasks such a proplet runs; while its heartbeats come, it is taken to run all it was given."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            for proplet in self._proplets.list():
                heard = max(proplet.last_seen, self._awake_since)
                if proplet.legacy and time.time() - heard > self._proplets.patience(proplet):
                    self._lost(proplet.id, "the proplet's heartbeats stopped", "lease_expired")

    async def _switched(self, proplet_id: str) -> None:
        self._lost(proplet_id, "the proplet has changed to topics of its own", "proplet_restarted")

    def _lost(self, proplet_id: str, reason: str, code: str) -> None:
        for key in self._attempts.accepted_by(proplet_id):
            self._attempts.finish(key, Outcome(AttemptEvent.EXPIRED, None, reason, code, retryable=True))


def _capabilities(said: LegacyCreate) -> Capabilities:
    """What its description tells of them; it runs one task at a time as far as placement is concerned."""
    arch, memory = said.metadata.get("cpu_arch"), said.metadata.get("total_memory_bytes")
    return Capabilities(
        arch=arch if isinstance(arch, str) else "", memory_bytes=int(memory) if isinstance(memory, int | float) else 0
    )


def _check_round(task: Task, said: LegacyResult) -> None:
    """Raises ``InvalidRequestError`` when what was learned belongs to another round than the task."""
    round_id = said.results.get("round_id") if isinstance(said.results, dict) else None
    if round_id is not None and round_id != task.spec.env.get("ROUND_ID"):
        raise InvalidRequestError(f"the result of {task.id} is for round {round_id}, its task for another")


def update_of(task: Task) -> bytes | None:
    """The update that a legacy proplet sent inside its result; None when there is none that can be read."""
    results = json.loads(task.result) if task.result else None
    if not isinstance(results, dict) or "update_b64" not in results:
        return None
    try:
        printed = LegacyLearned.model_validate(results).printed()
        Update.decode(printed)
    except (InvalidRequestError, ValueError) as error:
        log.warning("the result carries no update that can be read", task_id=task.id, reason=str(error))
        return None
    return printed
