"""Warnings about what a proplet says: of each kind one line a minute, however often it says it."""

from __future__ import annotations

import asyncio
from typing import Any

from swashplate import logging

log = logging.get("complaints")

QUIET_S = 60.0


class Complaints:
    def __init__(self) -> None:
        self._more: dict[tuple[str, str], int] = {}
        """By what is complained of and the proplet: how often since the last line."""
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def warn(self, event: str, proplet_id: str, **fields: Any) -> None:
        key = event, proplet_id
        if key in self._more:
            self._more[key] += 1
            return
        log.warning(event, proplet_id=proplet_id, **fields)
        self._wait(key)

    def _wait(self, key: tuple[str, str]) -> None:
        self._more[key] = 0
        self._timers[key] = asyncio.get_running_loop().call_later(QUIET_S, self._tell_more, key)

    def _tell_more(self, key: tuple[str, str]) -> None:
        event, proplet_id = key
        if more := self._more[key]:
            log.warning(event, proplet_id=proplet_id, times_since=more)
            self._wait(key)
        else:
            del self._more[key], self._timers[key]
