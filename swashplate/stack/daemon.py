"""A stack in the background: ``swashplate up -d`` starts this module as a process that outlives its terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swashplate.errors import NotFoundError, SwashplateError, UnavailableError
from swashplate.stack import lifecycle
from swashplate.stack.description import described
from swashplate.stack.log_files import Follower
from swashplate.stack.rotation import RotatedLog
from swashplate.stack.services import Options

LOG = "up.log"
PATHS = ("state_dir", "env_file", "policy")
LOOK_EVERY_S = 0.05
STOP_WITHIN_S = 30.0


async def keep_up(
    options: Options, notify: Callable[[str], None], ready: Callable[[lifecycle.Running], Awaitable[None]]
) -> None:
    """Run a stack until SIGINT, SIGTERM or SIGHUP; ``ready`` is called once it works."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    is_ready = False

    def asked() -> None:
        # While starting, the whole work is given up; once up, the wait below ends.
        if not is_ready and main is not None:
            main.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
    try:
        async with lifecycle.up(options, notify) as running:
            is_ready = True
            await ready(running)
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


def tell(text: str) -> None:
    """Say something to whoever watches; when the terminal is gone, everything goes on all the same."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def detach(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Start a stack in the background and wait until it works; answers what it says about itself.

    Raises ``UnavailableError`` when it ends before; why was said. Then, and when the wait is interrupted, nothing of it is
    left running.
    """
    try:
        log = options.state_dir / "logs" / LOG
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SwashplateError(f"cannot write the log in {options.state_dir}: {error.strerror}") from error
    said = Follower(log)
    said.skip()
    with os.fdopen(handle, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "swashplate.stack.daemon", json.dumps(asdict(options), default=str)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while True:
            code = process.poll()
            for line in said.fresh():
                say(line)
            if code is not None:
                raise UnavailableError("the stack did not start", code="not_started", hint=f"log: {log}")
            with contextlib.suppress(NotFoundError):
                description = described(options.state_dir)
                if description["pid"] == process.pid:
                    return description
            time.sleep(LOOK_EVERY_S)
    except BaseException:
        process.terminate()  # it stops what it had started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_S)
        raise


def main(text: str) -> int:
    """Run the stack that the options, as JSON, describe."""
    values = json.loads(text)
    options = Options(**{**values, **{name: Path(values[name]) for name in PATHS if values[name] is not None}})
    log = RotatedLog(options.state_dir / "logs" / LOG)

    def note(text: str) -> None:
        log.write(text.encode() + b"\n")

    async def ready(_: lifecycle.Running) -> None:
        note("ready")

    try:
        asyncio.run(keep_up(options, note, ready))
    except SwashplateError as error:
        note(f"error: {error.sentence}")
        if error.hint:
            note(f"hint: {error.hint}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
