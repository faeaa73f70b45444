"""A stack of real processes for a benchmark: ``swashplate up`` in a folder and on ports of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swashplate.errors import NotFoundError
from swashplate.stack import lifecycle
from swashplate.stack.description import described
from swashplate.stack.environment import without_roles
from swashplate.stack.supervisor import die_with_parent

READY_WITHIN_S = 120.0


@dataclass(frozen=True)
class LocalStack:
    """``described`` is what ``swashplate status --json`` shows of it; ``pid`` that of ``up``, whose children are the rest."""

    pid: int
    described: dict[str, Any]

    @property
    def manager(self) -> str:
        return str(self.described["urls"]["manager"])


@asynccontextmanager
async def running(
    folder: Path, *, proplets: int, broker: str, settings: Mapping[str, str], offset: int | None = None
) -> AsyncIterator[LocalStack]:
    """``settings`` are the lines of its env file. Raises ``RuntimeError`` with what it said when it does not start."""
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    offset = lifecycle.free_offset() if offset is None else offset
    command = [sys.executable, "-m", "swashplate", "up", "--proplets", str(proplets), "--broker", broker]
    command += ["--port-offset", str(offset)]
    command += ["--state-dir", str(folder / "state"), "--env-file", str(folder / "env")]
    log = folder / "up.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=without_roles(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
        )
    try:
        yield LocalStack(process.pid, await _ready(process, folder / "state", log))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, state: Path, log: Path) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_WITHIN_S
    while True:
        try:
            return described(state)
        except NotFoundError:
            if process.returncode is not None or loop.time() > deadline:
                said = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
                raise RuntimeError(f"the stack did not start: {said}") from None
        await asyncio.sleep(0.05)
