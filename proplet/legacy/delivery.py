"""The way of a result to a Propeller manager, and of an update to the coordinator before."""

from __future__ import annotations

import asyncio

from proplet.legacy import answers
from proplet.legacy.presence import Presence
from proplet.legacy.results import Kept, Shelf
from proplet.site import Site
from swashplate import logging
from swashplate.bus import PayloadTooLargeError
from swashplate.client import HttpClient
from swashplate.errors import SwashplateError, UnavailableError

log = logging.get("legacy")

POST_FOR_S, POST_AGAIN_S, POST_AGAIN_MOST_S = 60.0, 0.5, 5.0
BROKER_WITHIN_S = 7 * 86400.0
"""A result waits for the broker as long as it takes; given to the bus again, it might arrive twice."""


class Delivery:
    def __init__(self, presence: Presence, site: Site, shelf: Shelf, http: HttpClient) -> None:
        self._presence = presence
        self._site = site
        self._shelf = shelf
        self._http = http

    async def deliver(self, kept: Kept) -> None:
        """Returns when the broker has the result, which is forgotten then."""
        payload = kept.payload if kept.update is None else await self._post(kept, kept.update)
        try:
            await self._presence.say("results", payload, timeout=BROKER_WITHIN_S)
        except PayloadTooLargeError as error:
            log.error("result refused by the bus", task_id=kept.task_id, error=error.sentence)
            failed = answers.instead(kept, f"result: {error.sentence}")
            await self._presence.say("results", failed, timeout=BROKER_WITHIN_S)
        await self._shelf.forget(kept.task_id)

    async def _post(self, kept: Kept, update: bytes) -> bytes:
        """Bring the update to the coordinator; the result to publish after its answer. When it does not answer, the result
        has the update in it for whoever reads results.
        """
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + POST_FOR_S, POST_AGAIN_S
        while True:
            url = f"{self._site.coordinator_url()}/update"
            try:
                await self._http.request("POST", url, body=update)
            except UnavailableError as error:
                log.warning("coordinator unreachable", url=url, error=error.sentence)
                if loop.time() + delay > deadline:
                    return kept.payload
            except SwashplateError as error:
                log.error("update refused", task_id=kept.task_id, url=url, error=error.sentence, code=error.code)
                return answers.instead(kept, f"update refused: {error.sentence}")
            else:
                log.info("Successfully posted FL update to coordinator via HTTP: %s", url, task_id=kept.task_id)
                return kept.payload
            await asyncio.sleep(delay)
            delay = min(delay * 2, POST_AGAIN_MOST_S)
