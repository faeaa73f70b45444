"""Trying again: a registry that restarts should not cost a round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from swashplate import logging
from swashplate.errors import SwashplateError

log = logging.get("proxy")

Value = TypeVar("Value")

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0


async def patiently(work: Callable[[], Awaitable[Value]], *, seconds: float, container: str) -> Value:
    """Do ``work`` again, with growing pauses, while it fails with an error that may pass; the last time when ``seconds``
    are over. Raises the last error.
    """
    clock = asyncio.get_running_loop().time
    end, pause = clock() + seconds, FIRST_PAUSE
    while True:
        try:
            return await work()
        except SwashplateError as error:
            left = end - clock()
            if not error.retryable or left <= 0:
                raise
            pause = min(pause, left)
            log.warning(
                "no answer from the registry, trying again",
                container=container,
                error=error.sentence,
                code=error.code,
                hint=error.hint,
                again_in_s=round(pause, 2),
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
