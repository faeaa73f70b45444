"""Uploads to the embedded registry that are on their way. They end with the process; a client then begins again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import aiohttp

from proxy.registry_store import OciError
from proxy.transfer import buffered
from swashplate.blobs import BlobStore
from swashplate.errors import IntegrityError

IDLE_SECONDS = 3600.0
AT_ONCE = 256


class Upload:
    """One blob that is being written."""

    def __init__(self, name: str, repository: str, store: BlobStore, max_bytes: int) -> None:
        self.name = name
        self.repository = repository
        self.used = 0.0
        self.lock = asyncio.Lock()
        self._writer = store.writer()
        self._max_bytes = max_bytes

    @property
    def size(self) -> int:
        return self._writer.size

    @property
    def headers(self) -> dict[str, str]:
        """Where to go on, and how far we are (the end of ``Range`` is inclusive, so that an empty upload says 0-0)."""
        return {
            "Location": f"/v2/{self.repository}/blobs/uploads/{self.name}",
            "Range": f"0-{max(self.size - 1, 0)}",
            "Docker-Upload-UUID": self.name,
        }

    async def append(self, stream: aiohttp.StreamReader, announced: int | None) -> None:
        """Raises ``OciError`` 413 when the blob gets too large, before reading when its length says so."""
        self._refuse_over_limit(self.size + (announced or 0))
        async for piece in buffered(stream):
            self._refuse_over_limit(self.size + len(piece))
            await asyncio.to_thread(self._writer.write, piece)

    def _refuse_over_limit(self, size: int) -> None:
        if size > self._max_bytes:
            raise OciError(413, "SIZE_INVALID", f"the blob is over the limit of {self._max_bytes} bytes")

    async def commit(self, digest: str) -> None:
        try:
            await asyncio.to_thread(self._writer.commit, digest)
        except IntegrityError as error:
            raise OciError(400, "DIGEST_INVALID", error.sentence) from error

    def discard(self) -> None:
        self._writer.__exit__(None, None, None)


class Uploads:
    """The open uploads by name; one that nobody touched for an hour gives way."""

    def __init__(self, store: BlobStore, max_bytes: int, clock: Callable[[], float]) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._clock = clock
        self._open: dict[str, Upload] = {}

    def begin(self, repository: str) -> Upload:
        for upload in list(self._open.values()):
            if upload.used + IDLE_SECONDS < self._clock() and not upload.lock.locked():
                self.end(upload)
        if len(self._open) >= AT_ONCE:
            raise OciError(429, "TOOMANYREQUESTS", f"{AT_ONCE} uploads are open already")
        upload = Upload(secrets.token_hex(16), repository, self._store, self._max_bytes)
        upload.used = self._clock()
        self._open[upload.name] = upload
        return upload

    def get(self, repository: str, name: str) -> Upload:
        upload = self._open.get(name)
        if upload is None or upload.repository != repository:
            raise OciError(404, "BLOB_UPLOAD_UNKNOWN", f"there is no upload {name}; begin again")
        upload.used = self._clock()
        return upload

    def end(self, upload: Upload) -> None:
        self._open.pop(upload.name, None)
        upload.discard()

    def close(self) -> None:
        for upload in list(self._open.values()):
            self.end(upload)
