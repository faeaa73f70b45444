"""A real embedded registry on a free port, a registry that misbehaves as told, and a client of both."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.registry import Registry
from proxy.registry_routes import routes
from proxy.registry_store import RegistryStore
from swashplate.blobs import sha256_digest
from swashplate.http import HttpService
from tests.support.ghcr import READ, WRITE, Ghcr
from tests.support.ports import free_port

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def image_manifest(binary: bytes, media_type: str = "application/wasm") -> bytes:
    config = b"{}"
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": sha256_digest(config),
                "size": len(config),
            },
            "layers": [{"mediaType": media_type, "digest": sha256_digest(binary), "size": len(binary)}],
        }
    ).encode()


@dataclass
class RunningRegistry:
    """The embedded registry, and a session to speak to it as a client would."""

    host: str
    folder: Path
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    manifest_of = staticmethod(image_manifest)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])
        async with self.session.request(method, f"{self.url}{path}", **options) as response:
            return response.status, dict(response.headers), await response.read()

    async def push_blob(self, repository: str, content: bytes) -> str:
        digest = sha256_digest(content)
        path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
        assert (await self.ask("POST", path, data=content))[0] == 201
        return digest

    async def push_manifest(self, repository: str, tag: str, manifest: bytes, media_type: str = MANIFEST) -> str:
        path = f"/v2/{repository}/manifests/{tag}"
        status, headers, body = await self.ask("PUT", path, data=manifest, headers={"Content-Type": media_type})
        assert status == 201, body
        return headers["Docker-Content-Digest"]

    async def push(self, repository: str, tag: str, binary: bytes, media_type: str = "application/wasm") -> str:
        """Returns the manifest's digest."""
        await self.push_blob(repository, b"{}")
        await self.push_blob(repository, binary)
        return await self.push_manifest(repository, tag, image_manifest(binary, media_type))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


@pytest.fixture
async def make_registry(
    tmp_path: Path, session: aiohttp.ClientSession
) -> AsyncIterator[Callable[..., Awaitable[RunningRegistry]]]:
    async with AsyncExitStack() as running:

        async def make(*, max_blob_bytes: int = 64 << 20, clock: Callable[[], float] = lambda: 0.0) -> RunningRegistry:
            folder = tmp_path / "registry"
            registry = Registry(RegistryStore(folder), max_blob_bytes=max_blob_bytes, clock=clock)
            running.callback(registry.close)
            port = free_port()
            await running.enter_async_context(HttpService("registry", routes(registry)).serving("127.0.0.1", port))
            return RunningRegistry(f"127.0.0.1:{port}", folder, session)

        yield make


@pytest.fixture
async def registry(make_registry: Callable[..., Awaitable[RunningRegistry]]) -> RunningRegistry:
    return await make_registry()


@dataclass
class Upstream:
    """A registry that has one image, ``app:v1``, and does what a test tells it."""

    host: str = ""
    binary: bytes = b""
    manifest: bytes = b""
    blob: Callable[[web.Request, int], Awaitable[web.StreamResponse]] | None = None
    """Answers a request for the blob instead, given also how many came before."""
    guard: Callable[[web.Request], web.Response | None] = lambda _: None
    """Answers instead of everything but the token service."""
    token: Callable[[web.Request], web.Response] = lambda _: web.Response(status=404)
    seen: list[web.Request] = field(default_factory=list)
    blob_requests: int = 0

    @property
    def digest(self) -> str:
        return sha256_digest(self.binary)

    @property
    def image(self) -> str:
        return f"{self.host}/app:v1"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        if request.path == "/token":
            return self.token(request)
        refused = self.guard(request)
        if refused is not None:
            return refused
        kind, _, wanted = request.path.removeprefix("/v2/app/").partition("/")
        if kind == "manifests" and wanted in {"v1", sha256_digest(self.manifest)}:
            headers = {"Docker-Content-Digest": sha256_digest(self.manifest), "Content-Type": MANIFEST}
            return web.Response(body=self.manifest, headers=headers)
        if kind == "blobs" and wanted == self.digest:
            before, self.blob_requests = self.blob_requests, self.blob_requests + 1
            if self.blob is not None:
                return await self.blob(request, before)
            return web.Response(body=self.binary)
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such thing"}]}, status=404)

    @staticmethod
    async def cut_after(request: web.Request, content: bytes, announced: int, status: int = 200) -> web.StreamResponse:
        """Send ``content`` of an announced length, and hang up."""
        response = web.StreamResponse(status=status, headers={"Content-Length": str(announced)})
        await response.prepare(request)
        await response.write(content)
        await asyncio.sleep(0)
        assert request.transport is not None
        request.transport.close()
        return response


@pytest.fixture
async def make_upstream() -> AsyncIterator[Callable[..., Awaitable[Upstream]]]:
    async with AsyncExitStack() as running:

        async def make(binary: bytes) -> Upstream:
            upstream = Upstream(binary=binary, manifest=image_manifest(binary))
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", upstream.handle)
            runner = web.AppRunner(app, shutdown_timeout=0)
            await runner.setup()
            running.push_async_callback(runner.cleanup)
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            upstream.host = f"127.0.0.1:{port}"
            return upstream

        yield make


@pytest.fixture
async def ghcr(tmp_path: Path) -> AsyncIterator[Ghcr]:
    users = {
        "octocat": ("ghp_both", frozenset({READ, WRITE})),
        "reader": ("ghp_read", frozenset({READ})),
        "narrow": ("ghp_none", frozenset()),
    }
    async with Ghcr(users).serving(tmp_path / "ghcr") as running:
        yield running
