"""How every process runs: settings, logs, one event loop, and a clean end on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from swashplate import logging
from swashplate.errors import SwashplateError
from swashplate.folders import state_folder as state_folder  # noqa: PLC0414  # every role takes it from here
from swashplate.settings import MissingIdentityError, Settings

Chosen = TypeVar("Chosen", bound=Settings)


IDENTITY_AGAIN_S, IDENTITY_AGAIN_MOST_S = 1.0, 60.0


def run(settings_type: type[Chosen], serve: Callable[[Chosen, asyncio.Event], Awaitable[None]], *, name: str) -> None:
    """Load the settings and run ``serve`` until it returns; the event it is given is set when a signal asks to stop.

    Waits while the service has no ids and key, which provisioning may bring at any time. Exits 1 with one log line for
    another known error.
    """
    logging.configure(service=name)

    async def guarded() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        settings = await _settings(settings_type, stop, name)
        if settings is not None:
            logging.configure(settings.log_level, service=name)
            await serve(settings, stop)

    try:
        uvloop.run(guarded())
    except SwashplateError as error:
        logging.get(name).error(error.sentence, code=error.code, hint=error.hint)
        sys.exit(1)


async def _settings(kind: type[Chosen], stop: asyncio.Event, name: str) -> Chosen | None:
    """The settings once they are complete, None when asked to stop before."""
    delay = IDENTITY_AGAIN_S
    while not stop.is_set():
        try:
            return kind.load()
        except MissingIdentityError as error:
            logging.get(name).error(error.sentence, code=error.code, hint=error.hint, again_s=delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await stop.wait()
        delay = min(delay * 2, IDENTITY_AGAIN_MOST_S)
    return None


def stable_client_id(folder: Path, identity: str) -> str:
    """An MQTT client id that survives restarts and that nobody else can guess: ``{identity}-{random}``.

    Client ids are not bound to users on most brokers: whoever knows one can kick its owner off.
    """
    file = folder / "mqtt-client-id"
    with contextlib.suppress(FileNotFoundError):
        known = file.read_text().strip()
        if known.startswith(f"{identity}-"):
            return known
    fresh = f"{identity}-{secrets.token_hex(8)}"
    file.write_text(fresh + "\n")
    return fresh


class Tasks:
    """Background work of one owner: kept alive until done, failures logged, everything cancelled at the end."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, SwashplateError):
            self._log.error("background work failed", work=task.get_name(), error=error.sentence, code=error.code)
        elif error is not None:
            self._log.error("background work failed", work=task.get_name(), exc_info=error)

    async def close(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
