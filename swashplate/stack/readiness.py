"""Waiting until the processes of a stack can do their work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence

from swashplate.client import HttpClient
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.stack.services import HOST
from swashplate.stack.supervisor import Child

READY_WITHIN_S = 60.0


async def _port_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def _in_words(line: str) -> str:
    """A log line of ours without what only programs read."""
    try:
        said = json.loads(line)
        words = ": ".join(str(said[name]) for name in ("msg", "error") if said.get(name))
        words += f" ({said['hint']})" if said.get("hint") else ""
    except (ValueError, TypeError, AttributeError):
        words = line
    return words[:500]


class Readiness:
    """Waits until everything works; a child that keeps dying, or the time, ends the wait with its reason."""

    def __init__(self, children: Sequence[Child], client: HttpClient, within: float = READY_WITHIN_S) -> None:
        self._children = children
        self._client = client
        self._deadline = time.monotonic() + within
        self._restarts = {child.name: child.restarts for child in children}

    async def wait(self, child: Child) -> None:
        reason = "no answer"
        while True:
            self._give_up_when_hopeless(child, reason)
            if child.ready_url:
                try:
                    await self._client.get_json(child.ready_url, timeout=5)
                    return
                except SwashplateError as error:
                    reason = error.sentence
            elif await _port_open(child.ready_port):
                return
            await asyncio.sleep(0.05)

    async def proplets_alive(self, manager_url: str, wanted: set[str]) -> None:
        while True:
            missing = wanted
            with contextlib.suppress(UnavailableError):
                known = await self._client.get_json(f"{manager_url}/proplets?status=active&limit=10000")
                missing = wanted - {proplet["id"] for proplet in known["proplets"]}
            if not missing:
                return
            for child in self._children:
                if child.address in missing:
                    self._give_up_when_hopeless(child, "it did not register with the manager")
            await asyncio.sleep(0.05)

    def _give_up_when_hopeless(self, child: Child, reason: str) -> None:
        if child.restarts - self._restarts.get(child.name, 0) >= 3 or time.monotonic() > self._deadline:
            said = _in_words(child.last_log_line())
            raise UnavailableError(
                f"{child.name} does not become ready: {reason}" + (f"; its log ends with: {said}" if said else ""),
                code="not_ready",
                hint=f"log: {child.log_file}",
            )
