"""Work that grows with a body's size leaves the event loop once the body is large."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SMALL = 64 * 1024
"""Bytes. Below it the work takes less time than handing it to a thread; models and updates up to it live in their row."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def offload(size: int, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Call ``function`` here when ``size`` bytes are few, else in a thread."""
    if size <= SMALL:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
