"""``swashplate up`` and ``swashplate status``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

StateDir = Annotated[Path, typer.Option(help="Where everything is kept.")]


def _table(description: dict[str, Any], health: dict[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("service", "state", "where"):
        table.add_column(column, no_wrap=True)
    table.add_row("broker", health.get("broker", "ok"), description["broker"])
    for name, url in description["urls"].items():
        table.add_row(name, health.get(name, "ok"), url)
    for name, proplet_id in description["proplets"].items():
        table.add_row(name, health.get(name, "alive"), proplet_id)
    console = Console()
    console.print(table)
    console.print(f"credentials  {description['env_file']}", highlight=False, soft_wrap=True)
    console.print(f"logs         {description['logs']}", highlight=False, soft_wrap=True)


async def _health(description: dict[str, Any]) -> dict[str, str]:
    import os
    from urllib.parse import urlsplit

    from swashplate.client import HttpClient
    from swashplate.errors import SwashplateError
    from swashplate.layout import read_env, token_for_reading

    found: dict[str, str] = {}
    known = {**read_env(Path(description["env_file"])), **os.environ}
    tokens = {description["urls"]["manager"]: token_for_reading(known, "MANAGER")}
    async with HttpClient(timeout=5, tokens=tokens) as client:

        async def look(name: str, url: str) -> None:
            try:
                await client.get_json(f"{url}/health")
                found[name] = "ok"
            except SwashplateError as error:
                found[name] = f"down: {error.sentence}"

        await asyncio.gather(*(look(name, url) for name, url in description["urls"].items()))
        broker = urlsplit(description["broker"])
        try:
            _, writer = await asyncio.open_connection(broker.hostname, broker.port)
            writer.close()
            found["broker"] = "ok"
        except OSError as error:
            found["broker"] = f"down: {error}"
        alive: set[str] = set()
        if found["manager"] == "ok":
            url = f"{description['urls']['manager']}/proplets?status=active&limit=10000"
            with contextlib.suppress(SwashplateError):  # its token has changed, say: then nobody is known to be alive
                alive = {proplet["id"] for proplet in (await client.get_json(url))["proplets"]}
        for name, proplet_id in description["proplets"].items():
            found[name] = "alive" if proplet_id in alive else "offline"
    return found


def status(
    state_dir: StateDir = Path(".swashplate"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for programs.")] = False,
) -> None:
    """Show a running stack: URLs, ids, health. Exits 1 when none runs or something is down."""
    from swashplate import stack

    description = stack.described(state_dir)
    health = asyncio.run(_health(description))
    if as_json:
        print(json.dumps({**description, "health": health}))
    else:
        _table(description, health)
    if any(state not in {"ok", "alive"} for state in health.values()):
        raise typer.Exit(1)


def down(state_dir: StateDir = Path(".swashplate")) -> None:
    """Stop a running stack and wait until everything has ended."""
    import os
    import time
    from contextlib import suppress

    from swashplate import stack
    from swashplate.errors import UnavailableError

    description = stack.described(state_dir)
    with suppress(ProcessLookupError):
        os.kill(description["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            os.kill(description["pid"], 0)
            time.sleep(0.05)
        raise UnavailableError(f"the stack (pid {description['pid']}) is still stopping")
    print("stopped")


def up(
    proplets: Annotated[int, typer.Option(min=1, max=200, help="How many proplets to run.")] = 3,
    state_dir: StateDir = Path(".swashplate"),
    env_file: Annotated[Path, typer.Option(help="Credentials; made on the first start, reused afterwards.")] = Path(
        ".env"
    ),
    port_offset: Annotated[int, typer.Option(min=0, max=50_000, help="Added to every port.")] = 0,
) -> None:
    """Start the whole stack on this machine and keep it running until Ctrl-C or SIGTERM."""
    from swashplate import stack
    from swashplate.layout import Options

    options = Options(state_dir, env_file, proplets, port_offset)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()

        def asked() -> None:
            # While starting, the whole work is given up; once up, the wait below ends.
            if not ready and main is not None:
                main.cancel()
            stop.set()

        def tell(text: str) -> None:
            with contextlib.suppress(OSError):  # the terminal may be gone; everything is stopped in order all the same
                print(text, file=sys.stderr, flush=True)

        ready = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, asked)
        try:
            async with stack.up(options, tell) as running:
                ready = True
                _table(running.described(), {})
                print("ready; Ctrl-C stops everything", flush=True)
                await stop.wait()
        except asyncio.CancelledError:
            if not stop.is_set():
                raise

    asyncio.run(run())
