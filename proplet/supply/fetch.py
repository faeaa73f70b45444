"""Binaries over the bus: asked for in windows of chunks, assembled at their offsets, believed only when the digest fits.

Chunks are published once for everybody who waits for that binary, so those that others asked for are taken too. They
travel without acknowledgement; what does not come is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from pathlib import Path

from proplet.supply.assembly import Assembly, Wanted
from proplet.supply.binaries import Binaries
from swashplate import logging
from swashplate.bus import Bus, BusError, Received
from swashplate.errors import IntegrityError, InvalidRequestError, SwashplateError, TooLargeError
from swashplate.messages import BlobInfo, BlobRequest, digest_hex
from swashplate.topics import Topics, last_level

log = logging.get("fetch")

WINDOW = 16
"""Chunks that may be on their way at once."""
QUIET_S, QUIET_MOST_S = 0.5, 2.0
"""Time without progress after which missing chunks are asked for again."""
AWAY = frozenset({"registry_unreachable", "manager_unreachable"})
"""The codes of a peer that does not answer the proxy, and may be back in a moment."""
AWAY_S, AWAY_AGAIN_S = 15.0, 0.5
"""How long it is waited for, before it costs an attempt, and the pause between requests."""
PATIENCE_S = 600.0
MAGIC = b"\0asm"


class Fetch:
    """One binary being fetched: requests go out, chunks and the description come in."""

    def __init__(self, wanted: Wanted, assembly: Assembly) -> None:
        self.wanted = wanted
        self.assembly = assembly
        self.failure: SwashplateError | None = None
        self.requests: list[str] = []
        self._asked: set[int] = set()
        self._progress = asyncio.Event()

    def take_info(self, info: BlobInfo) -> None:
        if info.error:
            code = info.code or "fetch_failed"
            self.failure = SwashplateError(f"{self.wanted.name}: {info.error}", code=code, retryable=info.retryable)
        else:
            try:
                self.assembly.describe(info)
            except IntegrityError as error:
                self.failure = error
        self._progress.set()

    async def take_chunk(self, message: Received) -> None:
        index = last_level(message.topic)
        if index.isascii() and index.isdigit() and self.assembly.put(int(index), message.payload):
            self._progress.set()

    async def progress(self, timeout: float) -> bool:
        """Wait for news; False when there is none for ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._progress.wait()
        except TimeoutError:
            return False
        self._progress.clear()
        return True

    def next_window(self, *, again: bool) -> list[int]:
        """The indexes to ask for now; ``again`` gives up hope for those already asked for."""
        if not self.assembly.described:
            # Every binary has a chunk 0, and most have no other: description and content then need one request.
            first = [0] if again or not self.requests else []
            self._asked.update(first)
            return first
        self._asked &= self.assembly.missing
        if again:
            self._asked.clear()
        if len(self._asked) > WINDOW // 2:
            return []
        window = sorted(self.assembly.missing - self._asked)[: WINDOW - len(self._asked)]
        self._asked.update(window)
        return window


class Fetcher:
    """Fetches of one digest by several attempts are one fetch."""

    def __init__(
        self, bus: Bus, topics: Topics, proplet_id: str, binaries: Binaries, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._patience_s = patience_s
        self._bus = bus
        self._topics = topics
        self._proplet_id = proplet_id
        self._binaries = binaries
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        self._by_request: dict[str, Fetch] = {}
        self.fetched_bytes = 0
        self.ignored_chunks = 0

    async def open(self) -> None:
        """Subscribe; call before the bus connects."""
        await self._bus.subscribe(self._topics.blob_reply(self._proplet_id), self._replied)

    async def close(self) -> None:
        for running in self._running.values():
            running.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def fetch(self, wanted: Wanted, *, endless: bool = False) -> Path:
        """The verified binary. Raises ``SwashplateError``; waits as long as the caller does, unless he has no deadline
        himself (``endless``).
        """
        if self._binaries.has(wanted.digest):
            self._binaries.touch(wanted.digest)
            return self._binaries.path(wanted.digest)
        if wanted.size > self._binaries.limit:
            raise TooLargeError(
                f"{wanted.name} has {wanted.size} bytes, the limit is {self._binaries.limit}",
                code="binary_too_large",
                hint="PROPLET_CACHE_BYTES raises it",
            )
        running = await self._joined(wanted)
        self._waiting[wanted.digest] += 1
        try:
            async with asyncio.timeout(self._patience_s if endless else None):
                await asyncio.shield(running)
        except TimeoutError as error:
            raise SwashplateError(
                f"{wanted.name} did not arrive within {self._patience_s:g} s",
                code="fetch_timeout",
                hint="does the proxy run? PROPLET_FETCH_TIMEOUT sets the limit",
                retryable=True,
            ) from error
        finally:
            self._waiting[wanted.digest] -= 1
            if not self._waiting[wanted.digest]:
                running.cancel()
        return self._binaries.path(wanted.digest)

    async def _joined(self, wanted: Wanted) -> asyncio.Task[None]:
        """The fetch of this digest that runs, or a new one; never one that is being given up."""
        while (running := self._running.get(wanted.digest)) is not None:
            if not running.cancelling():
                return running
            await asyncio.wait([running])
        running = asyncio.get_running_loop().create_task(self._fetch(wanted), name=f"fetch {wanted.name}")
        self._running[wanted.digest] = running
        running.add_done_callback(lambda ended: self._ended(wanted.digest, ended))
        return running

    def _ended(self, digest: str, ended: asyncio.Task[None]) -> None:
        self._running.pop(digest, None)
        if not ended.cancelled():
            ended.exception()  # whoever still waits has it; nobody may be left

    async def _replied(self, message: Received) -> None:
        info = BlobInfo.decode(message.payload)
        fetch = self._by_request.get(info.request_id)
        if fetch is not None and info.digest == fetch.wanted.digest:
            fetch.take_info(info)

    async def _fetch(self, wanted: Wanted) -> None:
        log.info("Requesting binary from registry: %s", wanted.name, digest=wanted.digest, size=wanted.size)
        pattern = self._topics.chunks_of(digest_hex(wanted.digest))
        with contextlib.closing(Assembly(wanted, self._binaries.store.folder)) as assembly:
            fetch = Fetch(wanted, assembly)
            await self._bus.subscribe(pattern, fetch.take_chunk, qos=0)
            try:
                await self._receive(fetch)
            finally:
                self.ignored_chunks += assembly.ignored
                for request_id in fetch.requests:
                    self._by_request.pop(request_id, None)
                await self._bus.unsubscribe(pattern)
            await asyncio.to_thread(self._verify, assembly.path, wanted)
        self.fetched_bytes += wanted.size
        log.info(
            "Assembled binary for app '%s', size: %d bytes from %d chunks",
            wanted.name,
            wanted.size,
            assembly.chunks,
            digest=wanted.digest,
        )
        self._binaries.make_room()

    async def _receive(self, fetch: Fetch) -> None:
        quiet, again = QUIET_S, False
        until = asyncio.get_running_loop().time() + AWAY_S
        while not fetch.assembly.complete:
            if fetch.failure is not None:
                if fetch.failure.code not in AWAY or not fetch.failure.retryable:
                    raise fetch.failure
                if asyncio.get_running_loop().time() > until:
                    fetch.failure.retryable = False  # a further attempt would only hide the reason longer
                    raise fetch.failure
                log.warning("no binary yet, trying again", digest=fetch.wanted.digest, error=fetch.failure.sentence)
                await asyncio.sleep(AWAY_AGAIN_S)
                fetch.failure, again = None, True
            window = fetch.next_window(again=again)
            if window:
                await self._ask(fetch, window)
            again = not await fetch.progress(quiet)
            quiet = min(quiet * 2, QUIET_MOST_S) if again else QUIET_S

    async def _ask(self, fetch: Fetch, window: list[int]) -> None:
        request_id = uuid.uuid4().hex
        fetch.requests.append(request_id)
        self._by_request[request_id] = fetch
        request = BlobRequest(
            request_id=request_id, digest=fetch.wanted.digest, image=fetch.wanted.image, indexes=window
        )
        if not self._bus.connected:
            return  # asked again when nothing comes
        try:
            await self._bus.publish(self._topics.blob_request(self._proplet_id), request.encode(), timeout=5)
        except BusError as error:
            log.debug("request for chunks not sent, trying again", digest=request.digest, error=error.sentence)

    def _verify(self, path: Path, wanted: Wanted) -> None:
        """Adopt the file when it is what was announced. Raises ``IntegrityError``, ``InvalidRequestError``."""
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
        self._binaries.store.adopt(path, wanted.digest)
        if wanted.wasm and magic != MAGIC:
            self._binaries.drop(wanted.digest)
            raise InvalidRequestError(f"{wanted.name} is not a WebAssembly binary", code="not_wasm")
