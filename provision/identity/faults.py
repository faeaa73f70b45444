"""What goes wrong on purpose, so that a test can see what provisioning makes of it.

``hang@3,status@5=503,delay@6=200``: the third request is never answered, the fifth with 503, the sixth 200 ms late.
Requests are counted over all four ports from 1, those to ``/health`` aside.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

from swashplate.errors import ConfigurationError
from swashplate.http import Handler

ACTIONS = {
    "status": "that status instead of being done",
    "drop": "the connection is closed without an answer, and nothing is done",
    "drop-after": "it is done, and the connection closed without an answer",
    "delay": "it is done, and answered so many milliseconds late",
    "hang": "no answer until the caller gives up",
    "text": "200 and something that is not JSON, and nothing is done",
    "kill-before": "the service kills itself before doing anything",
    "kill-after": "the service kills itself when it is done, before it answers",
}
_VALUED = {"status", "delay"}
_FAULT = re.compile(r"(?P<action>[a-z-]+)@(?P<at>[1-9][0-9]*)(?:=(?P<value>[0-9]{1,5}))?")


@dataclass
class Faults:
    """Which request meets what; empty for none."""

    planned: dict[int, tuple[str, int]] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        found = cls()
        for part in text.replace(",", " ").split():
            match = _FAULT.fullmatch(part)
            if match is None or match["action"] not in ACTIONS or (match["action"] in _VALUED) != bool(match["value"]):
                raise ConfigurationError(
                    f"setting IDENTITY_FAULTS: {part!r} is no fault",
                    hint=f"one of {', '.join(ACTIONS)}, with the number of a request: hang@3, status@5=503",
                )
            found.planned[int(match["at"])] = (match["action"], int(match["value"] or 0))
        return found

    def __bool__(self) -> bool:
        return bool(self.planned)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/health":
            return await handler(request)
        self.count += 1
        action, value = self.planned.get(self.count, ("", 0))
        match action:
            case "status":
                return web.json_response({"error": "a fault on purpose", "code": "fault"}, status=value)
            case "text":
                return web.Response(text="<html>not JSON</html>", content_type="text/html")
            case "hang":
                await asyncio.Event().wait()
            case "kill-before":
                os.kill(os.getpid(), signal.SIGKILL)
            case "drop":
                return _dropped(request)
        response = await handler(request)
        match action:
            case "kill-after":
                os.kill(os.getpid(), signal.SIGKILL)
            case "drop-after":
                return _dropped(request)
            case "delay":
                await asyncio.sleep(value / 1000)
        return response


def _dropped(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
