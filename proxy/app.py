"""The proxy's process: answers the manager and the proplets over MQTT, and says over HTTP whether it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from proxy import references
from proxy.auth import Credentials
from proxy.cache import BlobCache
from proxy.chunks import ChunkStreams, Sendable, check_indexes
from proxy.manifests import WASM_MAGIC, Binary
from proxy.oci import OciClient
from proxy.settings import ProxySettings
from proxy.single_flight import SingleFlight
from proxy.transfer import Limits
from proxy.uploads import ManagerBlobs
from swashplate import logging, service
from swashplate.blobs import BlobStore
from swashplate.bus import Bus, Received
from swashplate.errors import ConfigurationError, InvalidRequestError, SwashplateError, UnavailableError
from swashplate.http import HttpService, must_be_connected
from swashplate.messages import BlobInfo, BlobRequest, Resolve, Resolved
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
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._images = images
        self._uploads = uploads
        self._cache = cache
        self._chunk_size = chunk_size
        self._fetch_timeout = fetch_timeout
        self._streams = ChunkStreams(bus, topics)
        self._resolving: SingleFlight[Binary] = SingleFlight()
        self._tasks = service.Tasks(log)
        self._fetching = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def start(self) -> None:
        await self._bus.subscribe(self._topics.resolve_request, self._on_resolve)
        await self._bus.subscribe(self._topics.every_blob_request, self._on_blob_request)

    async def close(self) -> None:
        await self._tasks.close()
        await self._streams.close()
        await self._resolving.close()
        await self._cache.close()

    async def _on_resolve(self, received: Received) -> None:
        request = Resolve.decode(received.payload)
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
        self._tasks.start(self._answer_blob_request(request, proplet), f"binary {request.digest} for {proplet}")

    async def _answer_resolve(self, request: Resolve) -> None:
        try:
            reference = references.parse(request.image)
            binary = await self._resolving.do(str(reference), lambda: self._images.resolve(reference))
        except SwashplateError as error:
            log.warning("failed to resolve image", image=request.image, error=error.sentence, code=error.code)
            await self._report(request.request_id, request.image, error)
            return
        resolved = Resolved(
            request_id=request.request_id,
            image=request.image,
            digest=binary.digest,
            size=binary.size,
            media_type=binary.media_type,
        )
        await self._bus.publish(self._topics.resolve_reply, resolved.encode())
        await self._fetch_ahead(request.image, binary)

    async def _fetch_ahead(self, image: str, binary: Binary) -> None:
        """The proplets will ask for it in a moment; when it cannot be had, they are told then."""
        try:
            async with self._holding(BlobRequest(request_id="", digest=binary.digest, image=image), binary.size):
                pass
        except SwashplateError as error:
            log.warning("failed to fetch container", container=image, error=error.sentence, code=error.code)

    async def _answer_blob_request(self, request: BlobRequest, proplet: str) -> None:
        try:
            async with self._holding(request, None) as path:
                binary = Sendable(
                    digest=request.digest,
                    path=path,
                    size=path.stat().st_size,
                    chunk_size=self._chunk_size,
                    container=request.image or request.digest,
                )
                check_wasm(binary)
                check_indexes(request.indexes, binary.chunks)
                await self._describe(request, proplet, binary)
                if request.indexes:
                    log.info("successfully fetched container, sending chunks", container=binary.container)
                    await self._streams.send(binary, request.indexes)
        except SwashplateError as error:
            log.error(
                "failed to fetch container",
                container=request.image or request.digest,
                proplet_id=proplet,
                error=error.sentence,
                code=error.code,
                hint=error.hint,
            )
            await self._refuse(request, proplet, error)

    @asynccontextmanager
    async def _holding(self, request: BlobRequest, size: int | None) -> AsyncIterator[Path]:
        """The binary's file, fetched when it is not here. ``size`` when the manifest announced it."""

        async def fetch(store: BlobStore) -> None:
            log.info("fetching container from registry", container=request.image or request.digest)
            try:
                async with self._fetching, asyncio.timeout(self._fetch_timeout):
                    if request.image:
                        await self._images.fetch(references.parse(request.image), request.digest, size, store)
                    else:
                        await self._uploads.fetch(request.digest, store)
            except TimeoutError as error:
                raise UnavailableError(
                    f"fetching {request.image or request.digest} took longer than {self._fetch_timeout:g} s",
                    code="registry_unreachable",
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
            error=error.sentence,
            code=error.code,
            retryable=error.retryable,
        )
        await self._bus.publish(self._topics.blob_reply(proplet), info.encode())
        await self._report(request.request_id, request.image or request.digest, error)

    async def _report(self, request_id: str, image: str, error: SwashplateError) -> None:
        sentence = f"{error.sentence} ({error.hint})" if error.hint else error.sentence
        resolved = Resolved(
            request_id=request_id, image=image, error=sentence, code=error.code, retryable=error.retryable
        )
        await self._bus.publish(self._topics.resolve_reply, resolved.encode())


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


def credentials_of(settings: ProxySettings) -> Credentials:
    if not settings.authenticate:
        return Credentials()
    if not settings.registry_url:
        raise ConfigurationError(
            "PROXY_AUTHENTICATE is set, but PROXY_REGISTRY_URL does not say for which registry", hint="such as ghcr.io"
        )
    if not (settings.registry_username and settings.registry_password) and not settings.registry_token:
        raise ConfigurationError(
            "PROXY_AUTHENTICATE is set, but there are no credentials",
            hint="set PROXY_REGISTRY_USERNAME and PROXY_REGISTRY_PASSWORD, or PROXY_REGISTRY_TOKEN",
        )
    return Credentials(
        registry=references.registry_name(settings.registry_url),
        username=settings.registry_username,
        password=settings.registry_password,
        token=settings.registry_token,
    )


def embedded_registry(settings: ProxySettings) -> Credentials:
    """What is shown to our own registry: it takes its token as the password of any user."""
    token = settings.oci_registry_token.get_secret_value()
    if not (token and settings.oci_registry_url):
        return Credentials()
    return Credentials(
        registry=references.registry_name(settings.oci_registry_url), username="swashplate", password=token
    )


@asynccontextmanager
async def running(settings: ProxySettings, bus: Bus, folder: Path) -> AsyncIterator[Proxy]:
    """The proxy on this bus, which must not be entered yet: no message may arrive before its handler."""
    if urlsplit(settings.manager_url).scheme not in {"http", "https"}:
        raise ConfigurationError(f"setting PROXY_MANAGER_URL: {settings.manager_url!r} is not an http:// URL")
    endpoints = references.endpoints(
        aliases=settings.registry_aliases, plain_http=settings.plain_http, registry_url=settings.registry_url
    )
    limits = Limits(max_bytes=settings.max_binary_bytes)
    async with AsyncExitStack() as open_things:
        session = await open_things.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        proxy = Proxy(
            bus,
            Topics(settings.domain_id, settings.channel_id),
            images=OciClient(
                session,
                endpoints,
                credentials=credentials_of(settings),
                further=[embedded_registry(settings)],
                limits=limits,
            ),
            uploads=ManagerBlobs(session, settings.manager_url, limits, settings.manager_token.get_secret_value()),
            cache=BlobCache(folder / "blobs", settings.cache_bytes),
            chunk_size=settings.chunk_size,
            fetch_timeout=settings.fetch_timeout,
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
