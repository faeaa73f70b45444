"""Delivery of what the journal keeps: messages to the manager until it acknowledges them, updates to the coordinator.

A broker's own acknowledgement means only that the broker has the bytes, so a message is sent again until the manager says
that it is durable there. The first try is made at once; nothing waits for a timer that need not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from proplet.journal import Journal, Outgoing, PendingUpdate, Ref
from swashplate import logging
from swashplate.bus import Bus, BusError, PayloadTooLargeError
from swashplate.client import HttpClient
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.messages import AttemptStatus, Result
from swashplate.service import Tasks
from swashplate.topics import Topics

log = logging.get("outbox")

AGAIN_S, AGAIN_MOST_S = 2.0, 30.0
POST_AGAIN_S, POST_AGAIN_MOST_S = 0.2, 5.0
KEEP_AGAIN_S, KEEP_AGAIN_MOST_S = 0.2, 10.0


@dataclass
class _Waiting:
    message: Outgoing
    delay: float
    due: float


def status_message(ref: Ref, proplet_id: str, status: str, *, code: str = "", reason: str = "") -> Outgoing:
    """The id follows from what is said, so that saying it again is the same message."""
    said = AttemptStatus(
        id=f"{ref.task_id}/{ref.attempt}/{status}",
        task_id=ref.task_id,
        attempt=ref.attempt,
        proplet_id=proplet_id,
        status="accepted" if status == "accepted" else "denied",
        code=code,
        reason=reason,
    )
    return Outgoing(said.id, "status", ref, said.encode())


def result_message(
    ref: Ref,
    proplet_id: str,
    *,
    results: object = None,
    error: str | None = None,
    code: str = "",
    retryable: bool = False,
) -> Outgoing:
    said = Result(
        id=f"{ref.task_id}/{ref.attempt}/result",
        task_id=ref.task_id,
        attempt=ref.attempt,
        proplet_id=proplet_id,
        results=results,
        error=error,
        code=code,
        retryable=retryable,
    )
    return Outgoing(said.id, "results", ref, said.encode())


class Outbox:
    """``coordinator_url`` is asked at every try: the manager may announce another one meanwhile."""

    def __init__(
        self,
        journal: Journal,
        bus: Bus,
        topics: Topics,
        proplet_id: str,
        http: HttpClient,
        coordinator_url: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._bus = bus
        self._topics = topics
        self._proplet_id = proplet_id
        self._http = http
        self._coordinator_url = coordinator_url
        self._waiting: dict[str, _Waiting] = {}
        self._posting: dict[Ref, asyncio.Task[None]] = {}
        self._finishing: set[Ref] = set()
        """Attempts whose result is known, and is being written."""
        self._background = Tasks(log)
        self._changed = asyncio.Event()
        self.on_settled: Callable[[Ref], None] = lambda _ref: None
        """Called when the manager has the result of an attempt."""

    async def open(self) -> None:
        """Take up what an earlier life left; call before the bus connects."""
        for message in await self._journal.unacknowledged():
            self._hold(message)
        for update in await self._journal.updates():
            self._post(update)
        self._bus.on_connect(self._send_everything)
        self._background.start(self._send_due(), "resend")

    async def close(self) -> None:
        await self._background.close()

    def awaited(self) -> set[Ref]:
        """Attempts whose result the manager does not have yet."""
        sent = {w.message.ref for w in self._waiting.values() if w.message.kind == "results"}
        return sent | self._finishing | set(self._posting)

    async def accepted(self, ref: Ref) -> None:
        message = status_message(ref, self._proplet_id, "accepted")
        await self._until_kept(ref, lambda: self._journal.accept(ref, message))
        self._send(message)

    async def deny(self, ref: Ref, code: str, reason: str) -> None:
        message = status_message(ref, self._proplet_id, "denied", code=code, reason=reason)
        await self._journal.keep(message)
        self._send(message)

    async def finish(self, message: Outgoing) -> None:
        """Keep a result, however long the disk refuses it, and send it."""
        self._finishing.add(message.ref)
        try:
            await self._until_kept(message.ref, lambda: self._journal.finish(message))
            self._send(message)
        finally:
            self._finishing.discard(message.ref)

    async def deliver(self, update: PendingUpdate) -> None:
        """Keep the update, then bring it to the coordinator and report how that ended; does not wait for it."""
        await self._until_kept(update.ref, lambda: self._journal.keep_update(update))
        self._post(update)

    @staticmethod
    async def _until_kept(ref: Ref, keep: Callable[[], Awaitable[None]]) -> None:
        """Call ``keep`` until the disk takes what it keeps: nobody else has it."""
        delay = KEEP_AGAIN_S
        while True:
            try:
                await keep()
                return
            except UnavailableError as error:
                log.error("not kept, trying again", task_id=ref.task_id, error=error.sentence, again_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, KEEP_AGAIN_MOST_S)

    def give_up_update(self, message: Outgoing) -> bool:
        """Report ``message`` instead of delivering the update of its attempt; False when the coordinator has answered."""
        posting = self._posting.pop(message.ref, None)
        if posting is None:
            return False
        posting.cancel()
        self._finishing.add(message.ref)
        self._background.start(self.finish(message), f"give up {message.ref.task_id}")
        return True

    async def send_again(self, ref: Ref) -> None:
        for message in await self._journal.ask_again(ref):
            self._send(message)

    def acknowledged(self, ids: Iterable[str]) -> None:
        settled = [self._waiting.pop(i).message for i in ids if i in self._waiting]
        if settled:
            # Not waited for: what is not recorded before a crash is sent, and acknowledged, once more.
            self._background.start(self._journal.acknowledge(settled), "acknowledge")
        for message in settled:
            if message.kind == "results":
                self.on_settled(message.ref)

    def _hold(self, message: Outgoing) -> _Waiting:
        now = asyncio.get_running_loop().time()
        waiting = _Waiting(message, AGAIN_S, now + AGAIN_S)
        self._waiting[message.id] = waiting
        return waiting

    def _send(self, message: Outgoing) -> None:
        waiting = self._hold(message)
        self._changed.set()
        if self._bus.connected:
            self._background.start(self._publish(waiting.message), f"send {message.id}")

    async def _publish(self, message: Outgoing) -> None:
        try:
            await self._bus.publish(self._topics.proplet(self._proplet_id, message.kind), message.payload, timeout=10)
        except PayloadTooLargeError as error:
            await self._replace_too_large(message, error.sentence)
        except BusError as error:
            log.debug("message not sent, trying again", id=message.id, error=error.sentence)

    async def _replace_too_large(self, message: Outgoing, reason: str) -> None:
        if message.ref in self._finishing:
            return  # an earlier try replaces it
        log.error("result refused by the bus", task_id=message.ref.task_id, error=reason)
        small = result_message(message.ref, self._proplet_id, error=f"result: {reason}", code="result_too_large")
        await self.finish(small)

    async def _send_everything(self) -> None:
        """After a (re)connect, in the order in which they were kept."""
        now = asyncio.get_running_loop().time()
        for waiting in list(self._waiting.values()):
            waiting.delay, waiting.due = AGAIN_S, now + AGAIN_S
            self._background.start(self._publish(waiting.message), f"send {waiting.message.id}")
        self._changed.set()

    async def _send_due(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = loop.time()
            if self._bus.connected:
                for waiting in [w for w in self._waiting.values() if w.due <= now]:
                    waiting.delay = min(waiting.delay * 2, AGAIN_MOST_S)
                    waiting.due = now + waiting.delay
                    self._background.start(self._publish(waiting.message), f"send {waiting.message.id}")
            due = min((w.due for w in self._waiting.values()), default=None) if self._bus.connected else None
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _post(self, update: PendingUpdate) -> None:
        self._posting[update.ref] = self._background.start(self._post_until_taken(update), f"post {update.ref.task_id}")

    async def _post_until_taken(self, update: PendingUpdate) -> None:
        delay = POST_AGAIN_S
        while True:
            url = f"{self._coordinator_url()}/update"
            try:
                message = await self._posted(update, url)
                break
            except UnavailableError as error:
                log.warning("coordinator unreachable, trying again", url=url, error=error.sentence, again_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, POST_AGAIN_MOST_S)
        self._posting.pop(update.ref, None)
        await self.finish(message)

    async def _posted(self, update: PendingUpdate, url: str) -> Outgoing:
        """The result that is true after the coordinator's answer; raises ``UnavailableError`` when it gave none."""
        headers = {"X-Attempt-Token": update.token} if update.token else {}
        try:
            _, content = await self._http.request("POST", url, body=update.body, headers=headers)
        except UnavailableError:
            raise
        except SwashplateError as error:
            log.error("update refused", task_id=update.ref.task_id, url=url, error=error.sentence, code=error.code)
            reason = f"update refused: {error.sentence}"
            return result_message(update.ref, self._proplet_id, error=reason, code=error.code)
        log.info("Successfully posted FL update to coordinator via HTTP: %s", url, task_id=update.ref.task_id)
        if _status(content) != "ignored":
            return Outgoing(f"{update.ref.task_id}/{update.ref.attempt}/result", "results", update.ref, update.success)
        results = json.loads(update.success)["results"] | {"update": "ignored"}
        return result_message(update.ref, self._proplet_id, results=results)


def _status(content: bytes) -> str:
    try:
        return str(json.loads(content)["status"])
    except (ValueError, KeyError, TypeError):
        return ""
