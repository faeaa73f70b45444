"""What an image reference means right now: asked of the proxy, which holds the credentials."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass

from swashplate import logging, topics
from swashplate.bus import Bus, Received
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.messages import Resolve, Resolved

log = logging.get("images")

ASK_AGAIN_S = 2.0
AWAY = frozenset({"registry_unreachable", "proxy_unreachable"})
"""The codes of a peer that does not answer, which may be back in a moment."""
AWAY_AGAIN_S, AWAY_AGAIN_MOST_S = 0.25, 2.0
MOST_BYTES = 2**31 - 1
"""What the database's whole numbers hold."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A WASM binary: its digest and its size in bytes."""

    digest: str
    size: int


class ImageError(SwashplateError):
    """The image cannot be had."""

    default_code = "image"


class Images:
    """Asks once for callers that want the same reference at the same time; remembers nothing, since tags move."""

    def __init__(self, bus: Bus, names: topics.Topics, *, timeout: float) -> None:
        self._bus = bus
        self._topics = names
        self._timeout = timeout
        self._asked: dict[str, asyncio.Future[Resolved]] = {}
        self._underway: dict[str, asyncio.Task[Binary]] = {}

    async def open(self) -> None:
        await self._bus.subscribe(self._topics.resolve_reply, self._answered)

    async def resolve(self, image: str, *, patience: float = 0.0) -> Binary:
        """Raises ``ImageError`` with the proxy's code, ``UnavailableError`` when the proxy does not answer in time.

        A registry that does not answer is asked again for ``patience`` seconds; when it still does not, that is final: a
        further attempt would only hide the reason longer.
        """
        until, pause = time.monotonic() + patience, AWAY_AGAIN_S
        while True:
            try:
                return await self._resolve(image)
            except SwashplateError as error:
                if not error.retryable or error.code not in AWAY:
                    raise
                if time.monotonic() + pause > until:
                    error.retryable = not patience
                    raise
                log.warning("image not resolved, trying again", image=image, error=error.sentence, code=error.code)
            await asyncio.sleep(pause)
            pause = min(2 * pause, AWAY_AGAIN_MOST_S)

    async def _resolve(self, image: str) -> Binary:
        asking = self._underway.get(image)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(image), name=f"resolve {image}")
            self._underway[image] = asking
            asking.add_done_callback(lambda _: self._underway.pop(image, None))
        return await asyncio.shield(asking)

    async def _ask(self, image: str) -> Binary:
        request = Resolve(request_id=uuid.uuid4().hex, image=image)
        answered: asyncio.Future[Resolved] = asyncio.get_running_loop().create_future()
        self._asked[request.request_id] = answered
        try:
            async with asyncio.timeout(self._timeout):
                if self._bus.connected:  # the answer is what confirms it, not the broker
                    self._bus.post(self._topics.resolve_request, request.encode(), qos=0)
                    await asyncio.wait([answered], timeout=ASK_AGAIN_S)
                while not answered.done():
                    await self._bus.publish(self._topics.resolve_request, request.encode())
                    await asyncio.wait([answered], timeout=ASK_AGAIN_S)
        except TimeoutError as error:
            raise UnavailableError(
                f"the registry proxy did not say within {self._timeout:g} s what {image} is",
                code="proxy_unreachable",
                hint="is the proxy running and connected to the broker?",
                retryable=False,  # it was asked again all the time; a further attempt would only hide the reason longer
            ) from error
        finally:
            self._asked.pop(request.request_id, None)
        found = answered.result()
        if found.digest is None:
            raise ImageError(found.error, code=found.code, retryable=found.retryable)
        if found.size < 1:
            raise ImageError(f"the binary of {image} is empty", code="not_wasm")
        if found.size > MOST_BYTES:
            raise ImageError(f"the binary of {image} has {found.size} bytes, at most {MOST_BYTES}", code="too_large")
        return Binary(found.digest, found.size)

    async def _answered(self, message: Received) -> None:
        said = Resolved.decode(message.payload)
        waiting = self._asked.get(said.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(said)
        elif said.error:
            log.error("failed to fetch container", image=said.image, error=said.error, code=said.code)
