"""An HTTP/1.1 client that costs next to nothing: what a benchmark burns, the service under it cannot have."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self
from urllib.parse import urlsplit


class RefusedError(Exception):
    """The service answered with an error."""


class Connection:
    """One connection, one request at a time; JSON in and out; bodies with a length only."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "localhost", parts.port or 80

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 26)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def request(self, method: str, path: str, body: bytes = b"") -> Any:
        """Raises ``RefusedError`` with the answer's status and text when it is not 2xx."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = answer.lower().index(b"content-length:") + len(b"content-length:")
        content = await self._reader.readexactly(int(answer[length : answer.index(b"\r\n", length)]))
        status = int(answer[9:12])
        if status >= 300:
            raise RefusedError(f"{method} {path}: {status} {content.decode(errors='replace').strip()}")
        return json.loads(content)
