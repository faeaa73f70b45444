"""Messages to the manager, sent again until it acknowledges them.

A broker's own acknowledgement means only that the broker has the bytes. So the first try is made at once and at QoS 0: a
broker that keeps a message on its disk first takes a millisecond for it. What the manager does not acknowledge soon goes out
again at QoS 1. Nothing waits for a timer that need not. A result implies the acceptance of its attempt, so an attempt that ends within ``SOON_S`` sends no other
message: that halves what a short task costs here, at the broker and at the manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from proplet.work.journal import Journal, PendingUpdate, PendingUpload
from proplet.work.outcome import Failure
from proplet.work.outgoing import STATUS, Outgoing, Ref, result_message, status_message
from proplet.work.states import AttemptState
from swashplate import logging
from swashplate.bus import Bus, BusError, PayloadTooLargeError
from swashplate.errors import UnavailableError
from swashplate.service import Tasks
from swashplate.topics import Topics

log = logging.get("outbox")

SOON_S = 0.1
"""How long an acceptance waits for the result."""
AGAIN_S, AGAIN_MOST_S = 2.0, 30.0
ACKNOWLEDGED_S = 0.1
"""How long acknowledgements are gathered for one write: what is not written before a crash is sent once more."""
KEEP_AGAIN_S, KEEP_AGAIN_MOST_S = 0.2, 10.0


@dataclass(slots=True)
class _Waiting:
    message: Outgoing
    delay: float
    due: float


class Outbox:
    """Results are on the disk before they are sent, or at the same time. A status lives in memory: after a restart a result
    takes its place.
    """

    def __init__(self, journal: Journal, bus: Bus, topics: Topics, proplet_id: str) -> None:
        self._journal = journal
        self._bus = bus
        self._proplet_id = proplet_id
        self._topics = {kind: topics.proplet(proplet_id, kind) for kind in ("status", "results", "invoke_results")}
        self._waiting: dict[str, _Waiting] = {}
        self._resending: asyncio.TimerHandle | None = None
        self._new: dict[Ref, float] = {}
        """Attempts that nobody was told of yet, and when they are due (the loop's time)."""
        self._accepting: asyncio.TimerHandle | None = None
        self._finishing: set[Ref] = set()
        """Those whose result is known, and is being written."""
        self._settled: list[Ref] = []
        """Those whose result is acknowledged, which is not written yet."""
        self._background = Tasks(log)
        self.heard_at = -math.inf
        """When the manager last acknowledged something (the loop's time)."""
        self.on_settled: Callable[[Ref], None] = lambda _ref: None
        """Called when the manager has the result of an attempt."""
        self.on_denial: Callable[[str], None] = lambda _code: None
        """Called with the code."""

    async def open(self) -> None:
        """Take up what an earlier life left; call before the bus connects."""
        for message in await self._journal.unacknowledged():
            self._hold(message)
        self._bus.on_connect(self.send_everything)

    async def close(self) -> None:
        for timer in (self._resending, self._accepting):
            if timer is not None:
                timer.cancel()
        settled, self._settled = self._settled, []
        with contextlib.suppress(UnavailableError):  # what is not written is sent, and acknowledged, once more
            await self._journal.acknowledge(settled)
        await self._background.close()

    def awaited(self) -> set[Ref]:
        """Attempts and invocations whose result the manager does not have yet."""
        return {w.message.ref for w in self._waiting.values() if w.message.kind != STATUS} | self._finishing

    # What becomes of an attempt or an invocation.

    def accept(self, ref: Ref) -> None:
        """Write that it is accepted, and tell the manager, unless its result comes first."""
        loop = asyncio.get_running_loop()
        self._new[ref] = loop.time() + SOON_S
        if self._accepting is None:
            self._accepting = loop.call_later(SOON_S, self._accept_due)

    def _accept_due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = [ref for ref, when in self._new.items() if when <= now]
        for ref in due:
            del self._new[ref]
        later = min(self._new.values(), default=None)
        self._accepting = None if later is None else loop.call_at(later, self._accept_due)
        if due:
            self._background.start(self._accepted(due), "accept")

    async def _accepted(self, refs: list[Ref]) -> None:
        await self._until_kept(refs[0], lambda: self._journal.accept(refs))
        for ref in refs:
            if self._journal.state(ref) in {AttemptState.ACCEPTED, AttemptState.DELIVERING}:  # else its result says so
                self.say_accepted(ref)

    async def kept(self, ref: Ref) -> None:
        """Return when it is on the disk that it is accepted, however long that refuses it."""
        if self._journal.state(ref) is None:
            self._new.pop(ref, None)
            await self._accepted([ref])

    def say_accepted(self, ref: Ref) -> None:
        if not ref.invocation:
            self.say(status_message(ref, self._proplet_id, "accepted"))

    def ready(self, ref: Ref) -> None:
        """The task can be invoked from now on."""
        self.say(status_message(ref, self._proplet_id, "ready", stage="ready"))

    def deny(self, ref: Ref, code: str, reason: str, *, retryable: bool = False) -> None:
        """Not kept: nothing was done for it, and one that asks again after a crash is answered anew."""
        self.on_denial(code)
        if ref.invocation:
            self.say(result_message(ref, self._proplet_id, Failure(reason, code, retryable)))
        else:
            self.say(status_message(ref, self._proplet_id, "denied", code=code, reason=reason))

    async def finish(self, message: Outgoing) -> None:
        """Keep a result, however long the disk refuses it, and send it.

        One that nobody was told of before is sent at once, beside the write: were both lost in a crash, the manager would
        have heard nothing, and would send the start again. Whatever was promised is kept first.
        """
        ref = message.ref
        untold = self._new.pop(ref, None) is not None and self._journal.state(ref) is None
        self._finishing.add(ref)
        try:
            if untold:
                self.say(message)
            await self._until_kept(ref, lambda: self._journal.finish(message))
            for status in ("accepted", "ready"):
                self._waiting.pop(f"{ref.task_id}/{ref.attempt}/{status}", None)
            if not untold:
                self.say(message)
            elif message.id not in self._waiting:  # acknowledged while it was written
                self._settle([ref])
        finally:
            self._finishing.discard(ref)

    async def keep_update(self, update: PendingUpdate) -> None:
        """Keep what the coordinator is to have, however long the disk refuses it."""
        await self._until_kept(update.ref, lambda: self._journal.keep_update(update))

    async def keep_upload(self, upload: PendingUpload) -> None:
        """Keep what the manager is to have, however long the disk refuses it."""
        await self._until_kept(upload.ref, lambda: self._journal.keep_upload(upload))

    async def send_again(self, ref: Ref) -> None:
        """Answer a start or an invocation that came again after it has ended."""
        message = await self._journal.result(ref)
        if message is None:
            forgotten = Failure(
                "its result was acknowledged once, and is forgotten", "result_forgotten", retryable=True
            )
            message = result_message(ref, self._proplet_id, forgotten)
        self.say(message)

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

    # Sending.

    def say(self, message: Outgoing) -> None:
        """Send now, and again until it is acknowledged."""
        self._hold(message)
        self._publish(message, qos=0)

    def acknowledged(self, ids: Iterable[str]) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        settled = [self._waiting.pop(i).message for i in ids if i in self._waiting]
        self._settle([each.ref for each in settled if each.kind != STATUS and each.ref not in self._finishing])

    def _settle(self, results: list[Ref]) -> None:
        """These are on the disk, and the manager has them."""
        if results and not self._settled:
            asyncio.get_running_loop().call_later(ACKNOWLEDGED_S, self._write_acknowledged)
        self._settled += results
        for ref in results:
            self.on_settled(ref)

    def _write_acknowledged(self) -> None:
        settled, self._settled = self._settled, []
        if settled:
            self._background.start(self._journal.acknowledge(settled), "acknowledge")

    def _hold(self, message: Outgoing) -> None:
        due = asyncio.get_running_loop().time() + AGAIN_S
        self._waiting[message.id] = _Waiting(message, AGAIN_S, due)
        self._resend_at(due)

    def _resend_at(self, due: float) -> None:
        timer = self._resending
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._resending = asyncio.get_running_loop().call_at(due, self._resend_due)

    def _resend_due(self) -> None:
        self._resending = None
        now = asyncio.get_running_loop().time()
        for waiting in list(self._waiting.values()):
            if waiting.due <= now:
                waiting.delay = min(waiting.delay * 2, AGAIN_MOST_S)
                waiting.due = now + waiting.delay
                self._publish(waiting.message)
        if self._waiting:
            self._resend_at(min(waiting.due for waiting in self._waiting.values()))

    def _publish(self, message: Outgoing, *, qos: int = 1) -> None:
        try:
            self._bus.post(self._topics[message.kind], message.payload, qos=qos)
        except PayloadTooLargeError as error:
            self._replace_too_large(message, error.sentence)
        except BusError as error:
            log.debug("message not sent, trying again", id=message.id, error=error.sentence)

    def _replace_too_large(self, message: Outgoing, reason: str) -> None:
        log.error("result refused by the bus", task_id=message.ref.task_id, error=reason)
        self._waiting.pop(message.id, None)
        small = result_message(message.ref, self._proplet_id, Failure(f"result: {reason}", "result_too_large"))
        self._background.start(self.finish(small), f"shorten {message.id}")

    async def send_everything(self) -> None:
        """After a (re)connect, and when a manager begins, in the order in which they were kept."""
        due = asyncio.get_running_loop().time() + AGAIN_S
        for waiting in list(self._waiting.values()):
            waiting.delay, waiting.due = AGAIN_S, due
            self._publish(waiting.message)
