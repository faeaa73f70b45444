"""Binaries that were uploaded to the manager: they come from its blob store over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from proxy.oci import BLOB_TIMEOUT
from proxy.transfer import BROKEN, Limits, Transfer
from swashplate.blobs import BlobStore
from swashplate.client import error_of
from swashplate.errors import NotFoundError, UnavailableError


class ManagerBlobs:
    """``GET {manager}/blobs/{digest}``."""

    def __init__(self, session: aiohttp.ClientSession, manager_url: str, limits: Limits, token: str = "") -> None:
        self._session = session
        self._url = manager_url.rstrip("/")
        self._limits = limits
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})

    async def fetch(self, digest: str, store: BlobStore) -> None:
        """Raises ``NotFoundError`` (image_not_found) and ``UnavailableError`` (manager_unreachable)."""

        @asynccontextmanager
        async def source(headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
            url = f"{self._url}/blobs/{digest}"
            try:
                response = await self._session.get(
                    url, headers={**self._headers, **headers}, timeout=BLOB_TIMEOUT, allow_redirects=False
                )
            except BROKEN as error:
                raise UnavailableError(
                    f"cannot reach the manager at {self._url}: {error or type(error).__name__}",
                    code="manager_unreachable",
                    hint="PROXY_MANAGER_URL says where it is",
                ) from error
            async with response:
                if response.status == 404:
                    raise NotFoundError(f"the manager does not have the binary {digest}", code="image_not_found")
                if response.status not in {200, 206}:
                    raise error_of(response.status, (await response.content.read(4096)).decode(errors="replace"), url)
                yield response

        await Transfer(source, digest, None, store, self._limits, what=digest).run()
