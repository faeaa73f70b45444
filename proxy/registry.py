"""An OCI registry for one machine: push and pull of the OCI Distribution Specification v1.1, content kept as plain files.

Without a token it belongs on loopback. A blob that was pushed to one repository can be read through every other one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from proxy.manifests import MAX_MANIFEST_BYTES, OCI_INDEX
from proxy.registry_routes import API, routes
from proxy.registry_store import OciError, RegistryStore
from proxy.registry_uploads import Upload, Uploads
from proxy.settings import RegistrySettings
from swashplate import logging, service
from swashplate.http import HttpService, answer
from swashplate.references import is_digest, is_repository, is_tag

log = logging.get("registry")


async def _methods(request: web.Request) -> set[str]:
    """What the other routes would do with the path of ``request``."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if "rest" not in resource.canonical:
            allowed |= (await resource.resolve(request))[1]
    return allowed


def _repository(request: web.Request) -> str:
    name = request.match_info["name"]
    if not is_repository(name):
        raise OciError(400, "NAME_INVALID", f"invalid repository {name!r}")
    return name


def _digest(text: str | None) -> str:
    if text is None or not is_digest(text):
        raise OciError(400, "DIGEST_INVALID", f"expected sha256: and 64 lower-case hexadecimal digits, got {text!r}")
    return text


def _selector(request: web.Request) -> str:
    text = request.match_info["reference"]
    if ":" in text:
        return _digest(text)
    if not is_tag(text):
        raise OciError(400, "MANIFEST_INVALID", f"invalid tag {text!r}")
    return text


class Registry:
    """The specification's operations over a store."""

    def __init__(
        self, store: RegistryStore, *, max_blob_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._uploads = Uploads(store.blobs, max_blob_bytes, clock)

    def close(self) -> None:
        self._uploads.close()

    async def version(self, _: web.Request) -> web.Response:
        return answer({}, headers=API)

    async def unsupported(self, request: web.Request) -> web.Response:
        if request.path == "/v2":
            raise web.HTTPTemporaryRedirect("/v2/")
        allowed = await _methods(request)
        if not allowed:
            raise OciError(404, "UNSUPPORTED", f"{request.path} is not supported")
        headers = {"Allow": ", ".join(sorted({*allowed, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=headers)
        raise OciError(405, "UNSUPPORTED", f"{request.method} {request.path} is not supported", headers)

    async def catalog(self, request: web.Request) -> web.Response:
        names = await asyncio.to_thread(self._store.repositories)
        return _page(request, "repositories", names, {})

    async def tags(self, request: web.Request) -> web.Response:
        repository = _repository(request)
        return _page(request, "tags", await asyncio.to_thread(self._store.tags, repository), {"name": repository})

    async def referrers(self, request: web.Request) -> web.Response:
        found = await asyncio.to_thread(
            self._store.referrers, _repository(request), _digest(request.match_info["digest"])
        )
        headers = dict(API)
        kind = request.query.get("artifactType")
        if kind:
            found = [descriptor for descriptor in found if descriptor.get("artifactType") == kind]
            headers["OCI-Filters-Applied"] = "artifactType"
        response = answer({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}, headers=headers)
        response.content_type = OCI_INDEX
        return response

    async def blob(self, request: web.Request) -> web.StreamResponse:
        _repository(request)
        digest = _digest(request.match_info["digest"])
        if not self._store.blobs.has(digest):
            raise OciError(404, "BLOB_UNKNOWN", f"there is no blob {digest}")
        headers = {**API, "Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        return web.FileResponse(self._store.blobs.path(digest), headers=headers, chunk_size=1 << 20)

    async def begin(self, request: web.Request) -> web.Response:
        repository = _repository(request)
        mounted = request.query.get("mount")
        if mounted is not None and self._store.blobs.has(_digest(mounted)):
            return _created(repository, mounted)
        if "digest" not in request.query:
            return web.Response(status=202, headers={**API, **self._uploads.begin(repository).headers})
        digest = _digest(request.query["digest"])
        upload = self._uploads.begin(repository)
        try:
            return await self._complete(request, upload, digest)
        finally:
            self._uploads.end(upload)

    async def upload_status(self, request: web.Request) -> web.Response:
        upload = self._upload(request)
        return web.Response(status=204, headers={**API, **upload.headers})

    async def append(self, request: web.Request) -> web.Response:
        async with self._writing(request) as upload:
            await self._receive(request, upload)
            return web.Response(status=202, headers={**API, **upload.headers})

    async def finish(self, request: web.Request) -> web.Response:
        digest = _digest(request.query.get("digest"))
        async with self._writing(request) as upload:
            return await self._complete(request, upload, digest)

    async def cancel(self, request: web.Request) -> web.Response:
        async with self._writing(request) as upload:
            self._uploads.end(upload)
        return web.Response(status=204, headers=API)

    async def _complete(self, request: web.Request, upload: Upload, digest: str) -> web.Response:
        await self._receive(request, upload)
        try:
            await upload.commit(digest)
        finally:
            self._uploads.end(upload)
        log.info("blob pushed", repository=upload.repository, digest=digest, size=upload.size)
        return _created(upload.repository, digest)

    async def _receive(self, request: web.Request, upload: Upload) -> None:
        """What arrived before a broken connection stays, and the client may go on from there; what is refused does not."""
        try:
            await upload.append(request.content, request.content_length)
        except OciError:
            self._uploads.end(upload)
            raise

    def _upload(self, request: web.Request) -> Upload:
        return self._uploads.get(_repository(request), request.match_info["upload"])

    @asynccontextmanager
    async def _writing(self, request: web.Request) -> AsyncIterator[Upload]:
        """One request at a time writes to an upload."""
        async with self._upload(request).lock:
            upload = self._upload(request)  # the request before us may have ended it
            self._check_position(request, upload)
            yield upload

    def _check_position(self, request: web.Request, upload: Upload) -> None:
        """A piece that says where it belongs must belong to the end of what is here."""
        stated = request.headers.get("Content-Range")
        if stated is None:
            return
        found = re.fullmatch(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?", stated)
        if found is None or int(found[1]) != upload.size:
            raise OciError(
                416, "BLOB_UPLOAD_INVALID", f"expected Content-Range to begin at {upload.size}", upload.headers
            )

    async def manifest(self, request: web.Request) -> web.Response:
        manifest = await asyncio.to_thread(self._store.manifest, _repository(request), _selector(request))
        headers = {
            **API,
            "Docker-Content-Digest": manifest.digest,
            "Content-Type": manifest.media_type,
            "ETag": f'"{manifest.digest}"',
        }
        return web.Response(body=manifest.content, headers=headers)

    async def put_manifest(self, request: web.Request) -> web.Response:
        repository, selector = _repository(request), _selector(request)
        content = await _read_manifest(request)
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        digest, subject = await asyncio.to_thread(self._store.put_manifest, repository, selector, content, media_type)
        log.info("image pushed", image=f"{repository}:{selector}", digest=digest)
        headers = {**API, "Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": digest}
        if subject:
            headers["OCI-Subject"] = subject
        return web.Response(status=201, headers=headers)

    async def delete_manifest(self, request: web.Request) -> web.Response:
        await asyncio.to_thread(self._store.delete_manifest, _repository(request), _selector(request))
        return web.Response(status=202, headers=API)


def _created(repository: str, digest: str) -> web.Response:
    headers = {**API, "Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)


async def _read_manifest(request: web.Request) -> bytes:
    content = bytearray()
    async for piece in request.content.iter_any():
        content += piece
        if len(content) > MAX_MANIFEST_BYTES:
            raise OciError(413, "MANIFEST_INVALID", f"the manifest is over the limit of {MAX_MANIFEST_BYTES} bytes")
    return bytes(content)


def _page(request: web.Request, name: str, entries: list[str], further: dict[str, Any]) -> web.Response:
    """What follows ``last``, at most ``n``, and a Link when there is more."""
    last, count = request.query.get("last"), request.query.get("n")
    if last is not None:
        entries = [entry for entry in entries if entry > last]
    headers = dict(API)
    if count is not None:
        if not (count.isascii() and count.isdigit() and len(count) < 10):
            raise OciError(400, "UNSUPPORTED", f"query parameter n must be a whole number, got {count!r}")
        more, entries = len(entries) > int(count), entries[: int(count)]
        if more and entries:
            headers["Link"] = f'<{request.path}?{urlencode({"n": count, "last": entries[-1]})}>; rel="next"'
    return answer({**further, name: entries}, headers=headers)


async def serve(settings: RegistrySettings, stop: asyncio.Event) -> None:
    access = settings.access(settings.host, basic=True)
    with service.state_folder(settings.folder) as folder:
        registry = Registry(RegistryStore(folder), max_blob_bytes=settings.max_blob_bytes)
        http = HttpService(
            "oci_registry",
            routes(registry),
            health=lambda: {"status": "ok", "service": "oci-registry"},
            access=access,
        )
        try:
            async with http.serving(settings.host, settings.port, setting=settings.names("port")[0]):
                await stop.wait()
        finally:
            registry.close()


def main() -> None:
    service.run(RegistrySettings, serve, name="oci-registry")


if __name__ == "__main__":
    main()
