"""Calls of latent tasks: durable before they are sent, sent until they are answered, and run at most once unless the task
has retries.

Each waits here, in order, until a proplet where its task is ready has a turn for it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from sortedcontainers import SortedList

from manager.fleet.proplets import Proplets
from manager.large_results import Stored
from manager.latent import calls
from manager.latent.calls import Answer
from manager.latent.deployments import Deployments
from manager.latent.invocation_archive import InvocationArchive
from manager.latent.invoke_sender import InvokeSender
from manager.state import states
from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey, CallKey, Invocation, Task
from manager.state.refusals import NOT_STORABLE
from manager.state.states import InvocationEvent, InvocationState
from manager.work import reports
from manager.work.acks import Acks
from manager.work.dialects import LEASE_GRACE_S
from manager.work.runs import retry_delay
from swashplate import logging
from swashplate.bus import Bus, Received
from swashplate.errors import ConflictError, SwashplateError, UnavailableError
from swashplate.messages import InvokeRequest, InvokeResult
from swashplate.topics import Topics

log = logging.get("invocations")

MOST_WAITING = 10_000
REFUSED_MOST_S = 2.0


class Invocations:
    """``why_waiting`` says in one sentence why a task is not ready anywhere."""

    def __init__(
        self,
        bus: Bus,
        names: Topics,
        ledger: Ledger,
        proplets: Proplets,
        deployments: Deployments,
        sender: InvokeSender,
        archive: InvocationArchive,
        acks: Acks,
        why_waiting: Callable[[Task], str],
        stored: Stored,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._topics = names
        self._ledger = ledger
        self._proplets = proplets
        self._deployments = deployments
        self._sender = sender
        self._archive = archive
        self._acks = acks
        self._why_waiting = why_waiting
        self._stored = stored
        self._clock = clock
        self._queues: dict[str, SortedList] = {}
        """By task: ``(seq, id)`` of those that wait."""
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._later: set[asyncio.TimerHandle] = set()
        self._refusals: dict[str, int] = {}
        self.ended: Counter[str] = Counter()
        """How many ended, by outcome: ``completed`` or the code of the failure."""
        self.on_idle: Callable[[str], Any] = lambda _proplet: None
        """Called when a proplet runs one less."""

    async def open(self) -> None:
        """Declare the subscription; call before the bus connects."""
        await self._bus.subscribe(self._topics.every_proplet("invoke_results"), self._said_result)
        self._proplets.on_join(self._changed)
        self._proplets.on_change(self._changed)
        self._sender.on_impossible = self._impossible

    async def close(self) -> None:
        for timer in (*self._deadlines.values(), *self._later):
            timer.cancel()

    def recover(self) -> None:
        """Take up what had no answer when the process ended; call when it is known where tasks are ready."""
        for invocation in self._ledger.open_invocations():
            self._watch(invocation)
            if invocation.state is InvocationState.QUEUED:
                self._enqueue(invocation)
                continue
            assert invocation.deployment is not None
            if self._deployments.is_ready(invocation.deployment):
                self._deployments.take(invocation.deployment, invocation.id)
                self._sender.begin(invocation.id)
            else:
                self._answer(invocation, Answer(None, "its deployment has ended", "proplet_lost", retryable=True))
        for task_id in list(self._queues):
            self._place(task_id)

    def counts(self) -> tuple[int, int]:
        """How many wait, and how many run."""
        waiting = sum(map(len, self._queues.values()))
        return waiting, len(self._deadlines) - waiting

    # What users want.

    async def invoke(self, task_id: str, request: InvokeRequest) -> Invocation:
        """Answered once it is durable. Raises ``ConflictError`` when the task cannot be invoked now or ever."""
        task = await self._ledger.fetch(task_id)
        self._ledger.check()
        _check_invocable(task)
        if len(self._queues.get(task_id, ())) >= MOST_WAITING:
            raise UnavailableError(f"{MOST_WAITING} invocations of task {task_id} wait already", code="too_many")
        now = self._clock()
        invocation = Invocation(
            id=str(uuid.uuid4()),
            seq=self._ledger.next_invocation_seq(),
            task_id=task_id,
            state=InvocationState.QUEUED,
            call=json.dumps({"inputs": request.inputs, "env": request.env}),
            created_at=now,
            deadline=now + request.timeout_s,
        )
        self._ledger.put(invocation)
        self._watch(invocation)
        self._enqueue(invocation)
        self._place(task_id)
        await self._ledger.durable(invocation.id)
        return invocation

    async def wait(self, invocation: Invocation) -> Invocation:
        """How one that was just asked for ended: soon after its deadline at the latest."""
        patience = invocation.deadline - self._clock() + 2 * LEASE_GRACE_S
        return await self._archive.get(invocation.task_id, invocation.id, patience)

    # Waiting for a turn.

    def _watch(self, invocation: Invocation) -> None:
        left = max(0.0, invocation.deadline - self._clock())
        timer = asyncio.get_running_loop().call_later(left, self._due, invocation.id)
        self._deadlines[invocation.id] = timer

    def _due(self, invocation_id: str) -> None:
        invocation = self._ledger.invocation(invocation_id)
        if invocation is None or invocation.state.ended:
            return
        left = invocation.deadline - self._clock()
        if invocation.state is InvocationState.RUNNING:
            left += LEASE_GRACE_S  # its proplet keeps the time, too, and knows more about it
        if left > 0:
            timer = asyncio.get_running_loop().call_later(left, self._due, invocation_id)
            self._deadlines[invocation_id] = timer
        elif invocation.state is InvocationState.RUNNING:
            self._end(invocation, Answer(None, "no result came in time", "timeout"))
        else:
            self._end(invocation, self._unready(invocation))

    def _unready(self, invocation: Invocation) -> Answer:
        task = self._ledger.task(invocation.task_id)
        if self._deployments.of(invocation.task_id):
            return Answer(None, f"other invocations of task {invocation.task_id} kept every proplet busy", "busy")
        why = self._why_waiting(task) if task is not None else ""
        return Answer(
            None, f"task {invocation.task_id} is ready on no proplet that lives{f': {why}' if why else ''}", "not_ready"
        )

    def _enqueue(self, invocation: Invocation) -> None:
        self._queues.setdefault(invocation.task_id, SortedList()).add((invocation.seq, invocation.id))

    def _dequeue(self, invocation: Invocation) -> None:
        queue = self._queues.get(invocation.task_id)
        if queue is not None:
            queue.discard((invocation.seq, invocation.id))
            if not queue:
                del self._queues[invocation.task_id]

    def _place(self, task_id: str) -> None:
        task = self._ledger.task(task_id)
        while task is not None and not task.stopping and task_id in self._queues:
            deployment = calls.choose(self._deployments.of(task_id))
            if deployment is None:
                return
            invocation = self._ledger.invocation(self._queues[task_id][0][1])
            assert invocation is not None
            self._dequeue(invocation)
            self._ledger.put(calls.given(invocation, deployment, self._clock()))
            self._deployments.take(deployment.key, invocation.id)
            self._sender.expect(invocation.id)
            self._ledger.then(partial(self._sender.begin, invocation.id))

    def ready(self, task: Task, attempt: Attempt) -> None:
        """The task can be invoked where ``attempt`` is."""
        self._deployments.ready(task, attempt)
        self._place(task.id)

    def gone(self, task: Task, attempt: Attempt) -> None:
        """That attempt has ended, and with it what ran there. With the task ends what waits for it."""
        if not task.spec.latent:
            return
        reason = f"its deployment has ended: {attempt.error or attempt.state}"
        for invocation_id in sorted(self._deployments.gone(attempt.key)):
            invocation = self._ledger.invocation(invocation_id)
            if invocation is not None and not invocation.state.ended:
                began = not self._sender.is_unsent(invocation_id)
                retryable = attempt.code != "stopped"
                self._answer(invocation, Answer(None, reason, attempt.code or "proplet_lost", retryable, began))
        now = self._ledger.task(task.id)
        if now is None or not now.state.active:
            over = Answer(None, f"task {task.id} has ended: {attempt.error or attempt.state}", "task_not_active")
            for _, invocation_id in list(self._queues.get(task.id, ())):
                waiting = self._ledger.invocation(invocation_id)
                if waiting is not None:
                    self._end(waiting, over)
            self._archive.forget(task.id)
        if attempt.proplet_id is not None:
            self.on_idle(attempt.proplet_id)

    async def _changed(self, proplet_id: str) -> None:
        for key in self._deployments.at(proplet_id):
            self._place(key.task_id)

    def _impossible(self, invocation: Invocation, error: SwashplateError) -> None:
        if self._ledger.invocation(invocation.id) is invocation:
            self._end(invocation, Answer(None, error.sentence, error.code))

    # Answers.

    async def _said_result(self, message: Received) -> None:
        said = InvokeResult.decode(message.payload)
        sender = self._proplets.checked_sender(message, said.proplet_id)
        invocation_id = calls.invocation_of(said.invocation_id)
        invocation = self._ledger.invocation(invocation_id)
        if invocation is None or said.invocation_id == calls.id_of_turn(invocation):
            self.answered(sender, invocation_id, AttemptKey(said.task_id, said.attempt), self._said(said))
        else:
            log.debug("result of an earlier turn", invocation_id=said.invocation_id, proplet_id=sender)
        self._acks.acknowledge(sender, said.id)

    def _said(self, said: InvokeResult) -> Answer:
        result, report = json.dumps(said.results), reports.kept(said.report)
        if said.error:
            code = said.code or "failed"
            began = code not in calls.NEVER_RAN
            return Answer(result, said.error, code, said.retryable, began, report)
        if said.results_digest is None:
            return Answer(result, report=report)
        key = CallKey(said.task_id, said.attempt, said.invocation_id)
        uploaded = self._stored(key, said.results_digest, said.results_size)
        if uploaded is not None:
            return Answer(uploaded, report=report)
        missing = f"its result {said.results_digest} was never uploaded"
        return Answer(None, missing, "result_missing", retryable=True, report=report)

    def answered(self, sender: str, invocation_id: str, key: AttemptKey | None, answer: Answer) -> None:
        """Only the proplet that was given it may say how it ended. ``key`` is None when it cannot tell."""
        invocation = self._ledger.invocation(invocation_id)
        if invocation is None or invocation.state is not InvocationState.RUNNING:
            log.debug("result of an invocation that has ended", invocation_id=invocation_id, proplet_id=sender)
            return
        if invocation.proplet_id != sender or (key is not None and key != invocation.deployment):
            log.warning("result of an invocation that it was not given", invocation_id=invocation_id, proplet_id=sender)
            return
        self._answer(invocation, answer)

    def _answer(self, invocation: Invocation, answer: Answer) -> None:
        """It runs no longer; it ends, or waits for another turn."""
        task, now = self._ledger.task(invocation.task_id), self._clock()
        active = task is not None and task.state.active and not task.stopping
        retries = task.spec.retries if task is not None and active else 0
        if not active and not answer.began:
            answer = Answer(None, answer.error, answer.code)
        after = calls.after(invocation, answer, retries, now)
        if after.state.ended:
            self._end(invocation, answer)
            return
        self._release(invocation)
        self._ledger.put(after)
        self._enqueue(after)
        self._refused(invocation, answer)
        self._place(invocation.task_id)
        if invocation.proplet_id is not None:
            self.on_idle(invocation.proplet_id)

    def _refused(self, invocation: Invocation, answer: Answer) -> None:
        if answer.began or answer.code not in calls.NEVER_RAN or invocation.deployment is None:
            return
        count = self._refusals[invocation.id] = self._refusals.get(invocation.id, -1) + 1
        delay = retry_delay(count, REFUSED_MOST_S)
        self._deployments.avoid(invocation.deployment, self._clock() + delay)
        self._place_later(invocation.task_id, delay)

    def _place_later(self, task_id: str, delay: float) -> None:
        def place() -> None:
            self._later.discard(timer)
            self._place(task_id)

        timer = asyncio.get_running_loop().call_later(delay + 0.001, place)
        self._later.add(timer)

    def _release(self, invocation: Invocation) -> None:
        self._sender.settle(invocation.id)
        if invocation.state is InvocationState.RUNNING and invocation.deployment is not None:
            self._deployments.give_back(invocation.deployment, invocation.id)

    def _end(self, invocation: Invocation, answer: Answer) -> None:
        event = InvocationEvent.FAILED if answer.failed else InvocationEvent.COMPLETED
        if (invocation.state, event) not in states.INVOCATION:
            return
        ended = calls.ended(invocation, answer, self._clock())
        self._ledger.put(ended)
        self._release(invocation)
        self._dequeue(invocation)
        self._refusals.pop(invocation.id, None)
        timer = self._deadlines.pop(invocation.id, None)
        if timer is not None:
            timer.cancel()
        self.ended[ended.code or str(ended.state)] += 1
        self._ledger.then(lambda: self._tell_ended(ended), about=ended.id)
        self._place(invocation.task_id)
        if invocation.proplet_id is not None:
            self.on_idle(invocation.proplet_id)

    def not_storable(self, invocation: Invocation, reason: str) -> None:
        """The database will not take it as it is: it fails, whatever it was to become."""
        if not invocation.state.ended:
            self._end(invocation, Answer(None, reason, NOT_STORABLE))
            return
        failed = invocation.changed(state=InvocationState.FAILED, result=None, error=reason, code=NOT_STORABLE)
        self._ledger.put(failed)
        self._ledger.then(lambda: self._tell_ended(failed), about=failed.id)

    def _tell_ended(self, invocation: Invocation) -> None:
        log.info(
            "invocation ended",
            task_id=invocation.task_id,
            invocation_id=invocation.id,
            status=str(invocation.state),
            error=invocation.error,
        )
        self._archive.ended(invocation)


def _check_invocable(task: Task) -> None:
    if not task.spec.latent:
        raise ConflictError(
            f"task {task.id} is not latent",
            code="not_latent",
            hint="only a task created with latent=true can be invoked",
        )
    if not task.state.active or task.stopping:
        raise ConflictError(
            f"task {task.id} is {'being stopped' if task.stopping else task.state.name.lower()}",
            code="task_not_active",
            hint=f"POST /tasks/{task.id}/start deploys it",
        )
