"""The proxy's process: answers the manager and the proplets over MQTT, and says over HTTP whether it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from proxy import addresses, logins
from proxy.cache import BlobCache
from proxy.chunks import ChunkStreams, Sendable, check_indexes
from proxy.legacy import LegacyChunks
from proxy.manifests import Binary
from proxy.oci import OciClient
from proxy.patience import patiently
from proxy.settings import ProxySettings
from proxy.single_flight import SingleFlight
from proxy.transfer import Limits
from proxy.uploads import ManagerBlobs
from swashplate import logging, references, service
from swashplate.blobs import BlobStore
from swashplate.bus import Bus, Received
from swashplate.errors import ConfigurationError, InvalidRequestError, SwashplateError, UnavailableError
from swashplate.http import HttpService, must_be_connected
from swashplate.messages import BlobInfo, BlobRequest, Resolve, Resolved
from swashplate.messages.tasks import WASM_MAGIC
from swashplate.topics import Topics, last_level

log = logging.get("proxy")

FETCHES_AT_ONCE = 8


class Proxy:
    """What the proxy does with a message. Handlers only start work; who hears nothing asks again."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        *,
        images: OciClient,
        uploads: ManagerBlobs,
        cache: BlobCache,
        chunk_size: int,
        fetch_timeout: float,
        registry_patience: float,
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._images = images
        self._uploads = uploads
        self._cache = cache
        self._chunk_size = chunk_size
        self._fetch_timeout = fetch_timeout
        self._patience = registry_patience
        self._streams = ChunkStreams(bus, topics)
        self._legacy = LegacyChunks(bus, topics, self._image)
        self._resolving: SingleFlight[Binary] = SingleFlight()
        self._tasks = service.Tasks(log)
        self._fetching = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._asked: set[str] = set()
        """Request ids of the manager that are being answered."""
        self._wanted: dict[tuple[str, str, str], set[int]] = {}
        """(proplet, digest, image) → chunks that it asked for so far, while the binary is being fetched."""

    async def start(self) -> None:
        await self._bus.subscribe(self._topics.resolve_request, self._on_resolve)
        await self._bus.subscribe(self._topics.every_blob_request, self._on_blob_request)
        await self._legacy.open()

    async def close(self) -> None:
        await self._tasks.close()
        await self._legacy.close()
        await self._streams.close()
        await self._resolving.close()
        await self._cache.close()

    async def _on_resolve(self, received: Received) -> None:
        request = Resolve.decode(received.payload)
        if request.request_id in self._asked:
            return  # asked again because the answer takes long; it is under way
        self._asked.add(request.request_id)
        log.info("Received container request", app_name=request.image, asked_by="manager")
        self._tasks.start(self._answer_resolve(request), f"resolve {request.image}")

    async def _on_blob_request(self, received: Received) -> None:
        request = BlobRequest.decode(received.payload)
        proplet = last_level(received.topic)
        log.info(
            "Received container request",
            app_name=request.image or request.digest,
            proplet_id=proplet,
            digest=request.digest,
            chunks=len(request.indexes),
        )
        key = (proplet, request.digest, request.image)
        if key in self._wanted:
            self._wanted[key].update(request.indexes)
            return
        self._wanted[key] = set(request.indexes)
        self._tasks.start(self._answer_blob_request(request, proplet), f"binary {request.digest} for {proplet}")

    async def _answer_resolve(self, request: Resolve) -> None:
        try:
            binary = await self._resolve(request.image)
        except SwashplateError as error:
            _log_failure(error, container=request.image)
            await self._report(request.request_id, request.image, error)
            return
        finally:
            self._asked.discard(request.request_id)
        resolved = Resolved(
            request_id=request.request_id,
            image=request.image,
            digest=binary.digest,
            size=binary.size,
            media_type=binary.media_type,
        )
        await self._bus.publish(self._topics.resolve_reply, resolved.encode(), qos=0)  # who misses it asks again
        await self._fetch_ahead(request.image, binary)

    async def _resolve(self, image: str) -> Binary:
        reference = references.parse(image)

        async def ask() -> Binary:
            return await patiently(lambda: self._images.resolve(reference), seconds=self._patience, container=image)

        return await self._resolving.do(str(reference), ask)

    async def _fetch_ahead(self, image: str, binary: Binary) -> None:
        """The proplets will ask for it in a moment; when it cannot be had, they are told then."""
        try:
            async with self._holding(BlobRequest(request_id="", digest=binary.digest, image=image), binary.size):
                pass
        except SwashplateError as error:
            _log_failure(error, container=image)

    async def _answer_blob_request(self, request: BlobRequest, proplet: str) -> None:
        key = (proplet, request.digest, request.image)
        indexes = self._wanted[key]
        try:
            async with self._binary(request, None) as binary:
                self._gathered(key, indexes)
                check_indexes(indexes, binary.chunks)
                await self._describe(request, proplet, binary)
                if indexes:
                    log.info("successfully fetched container, sending chunks", container=binary.container)
                    await self._streams.send(binary, sorted(indexes))
        except SwashplateError as error:
            _log_failure(error, container=request.image or request.digest, proplet_id=proplet)
            await self._refuse(request, proplet, error)
        finally:
            self._gathered(key, indexes)

    def _gathered(self, key: tuple[str, str, str], indexes: set[int]) -> None:
        """From now on, who asks for this starts anew."""
        if self._wanted.get(key) is indexes:
            del self._wanted[key]

    @asynccontextmanager
    async def _image(self, image: str) -> AsyncIterator[Sendable]:
        """The binary that an image reference means now."""
        found = await self._resolve(image)
        wanted = BlobRequest(request_id="", digest=found.digest, image=image)
        async with self._binary(wanted, found.size) as binary:
            yield binary

    @asynccontextmanager
    async def _binary(self, request: BlobRequest, size: int | None) -> AsyncIterator[Sendable]:
        """Raises ``SwashplateError`` when it cannot be had, or is no WebAssembly."""
        async with self._holding(request, size) as path:
            binary = Sendable(
                digest=request.digest,
                path=path,
                size=path.stat().st_size,
                chunk_size=self._chunk_size,
                container=request.image or request.digest,
            )
            check_wasm(binary)
            yield binary

    @asynccontextmanager
    async def _holding(self, request: BlobRequest, size: int | None) -> AsyncIterator[Path]:
        """The binary's file, fetched when it is not here. ``size`` when the manifest announced it."""

        async def fetch(store: BlobStore) -> None:
            container = request.image or request.digest
            log.info("fetching container from registry", container=container)

            async def once() -> None:
                async with self._fetching:
                    if request.image:
                        await self._images.fetch(references.parse(request.image), request.digest, size, store)
                    else:
                        await self._uploads.fetch(request.digest, store)

            try:
                async with asyncio.timeout(self._fetch_timeout):
                    await patiently(once, seconds=self._patience, container=container)
            except TimeoutError as error:
                raise UnavailableError(
                    f"fetching {container} took longer than {self._fetch_timeout:g} s", code="registry_unreachable"
                ) from error

        async with self._cache.holding(request.digest, request.image, fetch) as path:
            yield path

    async def _describe(self, request: BlobRequest, proplet: str, binary: Sendable) -> None:
        info = BlobInfo(
            request_id=request.request_id,
            digest=binary.digest,
            size=binary.size,
            chunk_size=binary.chunk_size,
            chunks=binary.chunks,
            media_type="application/wasm",
        )
        await self._bus.publish(self._topics.blob_reply(proplet), info.encode())

    async def _refuse(self, request: BlobRequest, proplet: str, error: SwashplateError) -> None:
        """The proplet is told why; so is the manager, whose log people read first."""
        info = BlobInfo(
            request_id=request.request_id,
            digest=request.digest,
            error=_with_hint(error),
            code=error.code,
            retryable=error.retryable,
        )
        await self._bus.publish(self._topics.blob_reply(proplet), info.encode())
        await self._report(request.request_id, request.image or request.digest, error)

    async def _report(self, request_id: str, image: str, error: SwashplateError) -> None:
        resolved = Resolved(
            request_id=request_id, image=image, error=_with_hint(error), code=error.code, retryable=error.retryable
        )
        await self._bus.publish(self._topics.resolve_reply, resolved.encode())


def _with_hint(error: SwashplateError) -> str:
    """For a task's and a round's error, which have one line."""
    return f"{error.sentence} ({error.hint})" if error.hint else error.sentence


def _log_failure(error: SwashplateError, **fields: str) -> None:
    log.error("failed to fetch container", **fields, error=error.sentence, code=error.code, hint=error.hint)


def check_wasm(binary: Sendable) -> None:
    """Raises ``InvalidRequestError`` (not_wasm) unless the file begins as every WASM module and component does."""
    with binary.path.open("rb") as file:
        begin = file.read(len(WASM_MAGIC))
    if begin != WASM_MAGIC:
        raise InvalidRequestError(
            f"{binary.container} is not WebAssembly: it begins with {begin.hex(' ') or 'nothing'}, not 00 61 73 6d",
            code="not_wasm",
            hint="push the .wasm file itself, not a container image around it" if begin[:2] == b"\x1f\x8b" else None,
        )


@asynccontextmanager
async def running(settings: ProxySettings, bus: Bus, folder: Path) -> AsyncIterator[Proxy]:
    """The proxy on this bus, which must not be entered yet: no message may arrive before its handler."""
    if urlsplit(settings.manager_url).scheme not in {"http", "https"}:
        raise ConfigurationError(f"setting PROXY_MANAGER_URL: {settings.manager_url!r} is not an http:// URL")
    endpoints = addresses.endpoints(
        aliases=settings.registry_aliases, plain_http=settings.plain_http, registry_url=settings.registry_url
    )
    limits = Limits(max_bytes=settings.max_binary_bytes)
    credentials = logins.of_proxy(settings)
    async with AsyncExitStack() as open_things:
        session = await open_things.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        proxy = Proxy(
            bus,
            Topics(settings.domain_id, settings.channel_id),
            images=OciClient(
                session,
                endpoints,
                credentials=credentials,
                further=[logins.of_embedded_registry(settings)],
                limits=limits,
            ),
            uploads=ManagerBlobs(session, settings.manager_url, limits, settings.manager_token.get_secret_value()),
            cache=BlobCache(folder / "blobs", settings.cache_bytes),
            chunk_size=settings.chunk_size,
            fetch_timeout=settings.fetch_timeout,
            registry_patience=settings.registry_patience,
        )
        log.info(
            "successfully initialized MQTT and HTTP config",
            registry_url=settings.registry_url,
            registry_login=credentials.username or ("token" if credentials.token else ""),
        )
        await proxy.start()
        await open_things.enter_async_context(bus)
        open_things.push_async_callback(proxy.close)
        yield proxy


async def serve(settings: ProxySettings, stop: asyncio.Event) -> None:
    access = settings.access(settings.http_host)
    with service.state_folder(settings.state_dir) as folder:
        bus = settings.bus(service.stable_client_id(folder, settings.client_id))
        http = HttpService(
            "proxy",
            [],
            checks={"mqtt": must_be_connected(lambda: bus.trouble)},
            health=lambda: {"status": "ok", "service": "proxy"},
            access=access,
        )
        setting = settings.names("http_port")[0]
        async with (
            http.serving(settings.http_host, settings.http_port, setting=setting),
            running(settings, bus, folder),
        ):
            await stop.wait()
