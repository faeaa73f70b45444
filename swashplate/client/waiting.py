"""Waiting for an end by long polling, over restarts of the manager."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from swashplate.client.http import UnreachableError
from swashplate.errors import SwashplateError, UnavailableError

LONG_STEP_S = 20.0
"""How long one request waits for an end."""
WATCHING_STEP_S = 1.0
"""The same for somebody who wants to see what happens in between."""
PAUSE_S, PAUSE_MOST_S = 0.05, 1.0


class Ending(Protocol):
    @property
    def ended(self) -> bool: ...

    @property
    def document(self) -> dict[str, Any]: ...


E = TypeVar("E", bound=Ending)


class NotEndedError(SwashplateError):
    """The time to wait is over; what was waited for goes on."""

    default_code = "not_ended"


async def changes(
    look: Callable[[float], Awaitable[E]], *, timeout: float | None, away_s: float, step_s: float
) -> AsyncIterator[E]:
    """What ``look(wait)`` sees, whenever it is another thing than before; the last is the end, or what is when ``timeout``
    seconds are over.

    ``wait`` asks the manager to answer when the end has come or so many seconds are over. A manager that is away for up to
    ``away_s`` seconds is asked again; one that does not know of waiting is asked less and less often.
    """
    now = asyncio.get_running_loop().time
    deadline = math.inf if timeout is None else now() + timeout
    last: E | None = None
    away_since: float | None = None
    wait, pause = 0.0, PAUSE_S
    while True:
        began = now()
        try:
            found = await look(wait)
        except UnavailableError as error:
            never_met = last is None and isinstance(error, UnreachableError) and not error.sent
            away_since = began if away_since is None else away_since
            if never_met or now() - away_since > away_s:
                raise
            pause = min(pause * 2, PAUSE_MOST_S)
            rest = pause
        else:
            away_since = None
            if last is None or found.document != last.document:
                pause = PAUSE_S
                yield found
            last = found
            if found.ended:
                return
            waited = wait == 0 or now() - began > wait / 2
            rest = 0.0 if waited else pause
            pause = min(pause * 1.5, PAUSE_MOST_S)
        if now() >= deadline:
            return
        await asyncio.sleep(min(rest, deadline - now()))
        wait = max(0.001, min(step_s, deadline - now()))


async def end_of(found: AsyncIterator[E], what: str, timeout: float | None) -> E:
    """The last of ``changes``. Raises ``NotEndedError`` when the time is over first."""
    last: E | None = None
    async for each in found:
        last = each
    if last is None or not last.ended:
        status = last.document.get("status", "not over") if last is not None else "unknown"
        raise NotEndedError(f"{what} is {status} after {timeout:g} s", hint="it goes on; wait longer, or stop it")
    return last
