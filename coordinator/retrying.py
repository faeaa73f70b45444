"""Asking again while a failure can pass: what a round has reached is not given up because somebody is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from swashplate import logging
from swashplate.errors import SwashplateError, UnavailableError

log = logging.get("rounds")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds."""
MISTAKES = 5
"""How many answers are taken that blame the one who gives them before they count as the last word."""
_MISTAKEN = {"internal", "digest_mismatch"}
"""The codes of such answers: a bug, or bytes altered on a disk. Whoever is only away or busy says something else."""

Answer = TypeVar("Answer")


async def insist(what: str, round_id: str, request: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat the request while its failure can pass; raises the ``SwashplateError`` that cannot."""
    pause, mistakes = FIRST_PAUSE, 0
    while True:
        try:
            return await request()
        except SwashplateError as error:
            if not may_change(error):
                raise
            mistakes += error.code in _MISTAKEN
            if mistakes == MISTAKES:
                sentence = f"the {what} failed {MISTAKES} times: {error.sentence}"
                raise SwashplateError(sentence, code=error.code, hint=error.hint) from error
            log.warning("no answer, trying again", peer=what, round_id=round_id, error=error.sentence)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def may_change(error: SwashplateError) -> bool:
    """Can the same request succeed later?"""
    return isinstance(error, UnavailableError) or error.retryable
