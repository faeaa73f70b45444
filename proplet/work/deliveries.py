"""Updates on their way to the coordinator, which is asked until it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from proplet.work.journal import Journal, PendingUpdate
from proplet.work.outbox import Outbox
from proplet.work.outcome import Failure
from proplet.work.outgoing import Outgoing, Ref, result_message, result_of
from swashplate import logging
from swashplate.client import HttpClient
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.messages import TOKEN_HEADER
from swashplate.service import Tasks

log = logging.get("outbox")

POST_AGAIN_S, POST_AGAIN_MOST_S = 0.2, 5.0


class Deliveries:
    """``coordinator_url`` is asked at every try: the manager may announce another one meanwhile."""

    def __init__(
        self, journal: Journal, outbox: Outbox, proplet_id: str, http: HttpClient, coordinator_url: Callable[[], str]
    ) -> None:
        self._journal = journal
        self._outbox = outbox
        self._proplet_id = proplet_id
        self._http = http
        self._coordinator_url = coordinator_url
        self._posting: dict[Ref, asyncio.Task[None]] = {}
        self._background = Tasks(log)

    async def open(self) -> None:
        """Take up what an earlier life left."""
        for update in await self._journal.updates():
            self._post(update)

    async def close(self) -> None:
        await self._background.close()

    def refs(self) -> list[Ref]:
        """The attempts whose update the coordinator has not answered for yet."""
        return list(self._posting)

    async def deliver(self, update: PendingUpdate) -> None:
        """Keep the update, then bring it to the coordinator and report how that ended; does not wait for it."""
        await self._outbox.keep_update(update)
        self._post(update)

    def give_up(self, ref: Ref, reason: Failure) -> bool:
        """Report ``reason`` instead; False when there is nothing to give up, or the coordinator has answered."""
        posting = self._posting.pop(ref, None)
        if posting is None:
            return False
        posting.cancel()
        self._background.start(
            self._outbox.finish(result_message(ref, self._proplet_id, reason)), f"give up {ref.task_id}"
        )
        return True

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
        await self._outbox.finish(message)

    async def _posted(self, update: PendingUpdate, url: str) -> Outgoing:
        """The result that is true after the coordinator's answer; raises ``UnavailableError`` when it gave none."""
        headers = {TOKEN_HEADER: update.token} if update.token else {}
        try:
            _, content = await self._http.request("POST", url, body=update.body, headers=headers)
        except UnavailableError:
            raise
        except SwashplateError as error:
            log.error("update refused", task_id=update.ref.task_id, url=url, error=error.sentence, code=error.code)
            refused = Failure(f"update refused: {error.sentence}", error.code)
            return result_message(update.ref, self._proplet_id, refused)
        log.info("Successfully posted FL update to coordinator via HTTP: %s", url, task_id=update.ref.task_id)
        if _status(content) != "ignored":
            return result_of(update.ref, update.success)
        said = json.loads(update.success)
        said["results"]["update"] = "ignored"
        return result_of(update.ref, json.dumps(said).encode())


def _status(content: bytes) -> str:
    try:
        return str(json.loads(content)["status"])
    except (ValueError, KeyError, TypeError):
        return ""
