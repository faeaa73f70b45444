"""``swashplate up``, ``down`` and ``status``."""

from __future__ import annotations

import asyncio
import json
import signal
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
        table.add_column(column, no_wrap=column != "state", overflow="fold")
    rows = {"broker": description["broker"], **description["urls"], **description["proplets"]}
    for name, where in rows.items():
        if name in health:
            table.add_row(name, health[name], where)
    console = Console()
    console.print(table)
    console.print(f"credentials  {description['env_file']}", highlight=False, soft_wrap=True)
    console.print(f"logs         {description['logs']}", highlight=False, soft_wrap=True)


def _all_well(description: dict[str, Any]) -> dict[str, str]:
    """The states of a stack that has just become ready."""
    return dict.fromkeys(("broker", *description["urls"]), "ok") | dict.fromkeys(description["proplets"], "alive")


async def _health(description: dict[str, Any]) -> dict[str, str]:
    import os
    from urllib.parse import urlsplit

    from swashplate.client import HttpClient
    from swashplate.errors import SwashplateError
    from swashplate.stack.environment import read_env, token_for_reading

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
        otherwise = "offline"
        url = f"{description['urls']['manager']}/proplets?status=active&limit=10000"
        try:
            alive = {proplet["id"] for proplet in (await client.get_json(url))["proplets"]}
        except SwashplateError as error:  # its token is not ours, say: then nobody is known to be alive
            otherwise = f"unknown: {error.sentence}"
        for name, proplet_id in description["proplets"].items():
            found[name] = "alive" if proplet_id in alive else otherwise
    return found


def status(
    services: Annotated[list[str] | None, typer.Argument(help="Only these; every one when none is named.")] = None,
    state_dir: StateDir = Path(".swashplate"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for programs.")] = False,
) -> None:
    """Show a running stack: URLs, ids, health. Exits 1 when none runs or something is down."""
    from swashplate.stack import control
    from swashplate.stack.description import described
    from swashplate.stack.services import chosen

    description = described(state_dir)
    states = control.ask(state_dir, control.Request(do="states"), print)["services"]
    named = chosen(services or [], list(states))
    health = asyncio.run(_health(description))
    health |= {name: state for name, state in states.items() if state != "running"}
    health = {name: state for name, state in health.items() if name in named or (not services and name == "broker")}
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

    from swashplate.errors import UnavailableError
    from swashplate.stack.description import described

    description = described(state_dir)
    with suppress(ProcessLookupError):
        os.kill(description["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            os.kill(description["pid"], 0)
            time.sleep(0.05)
        raise UnavailableError(f"the stack (pid {description['pid']}) is still stopping")
    print("stopped")


def up(
    context: typer.Context,
    proplets: Annotated[int, typer.Option(min=1, max=200, help="How many proplets to run.")] = 3,
    state_dir: StateDir = Path(".swashplate"),
    env_file: Annotated[Path, typer.Option(help="Credentials; made on the first start, reused afterwards.")] = Path(
        ".env"
    ),
    port_offset: Annotated[int, typer.Option(min=0, max=50_000, help="Added to every port.")] = 0,
    broker: Annotated[
        str,
        typer.Option(
            envvar="SWASHPLATE_BROKER",
            help="The broker to run when no MQTT address is set: embedded (nats-server) or mosquitto.",
        ),
    ] = "embedded",
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Run in the background; a stack that runs already takes over a changed env file."
        ),
    ] = False,
) -> None:
    """Start the whole stack on this machine and keep it running until Ctrl-C or SIGTERM, or in the background."""
    from swashplate.stack import daemon
    from swashplate.stack.services import Options

    options = Options(state_dir.resolve(), env_file.resolve(), proplets, port_offset, broker)
    if detach:
        _in_background(context, options)
        return

    def ready(running: Any) -> None:
        description = running.described()
        _table(description, _all_well(description))
        print("ready; Ctrl-C stops everything", flush=True)

    asyncio.run(daemon.keep_up(options, daemon.tell, ready))


def _in_background(context: typer.Context, options: Any) -> None:
    from swashplate.folders import is_held
    from swashplate.stack import control, daemon
    from swashplate.stack.description import described

    if is_held(options.state_dir):
        given = {
            name: value if isinstance(value, int) else str(value)
            for name, value in vars(options).items()
            if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
        }
        control.ask(options.state_dir, control.Request(do="apply", options=given), daemon.tell)
    else:
        daemon.detach(options, daemon.tell)
    description = described(options.state_dir)
    _table(description, _all_well(description))
    elsewhere = "" if options.state_dir == Path(".swashplate").resolve() else f" --state-dir {options.state_dir}"
    print(f"running in the background; swashplate down{elsewhere} stops everything")
    if elsewhere:
        print(f"commands find it with: export SWASHPLATE_MANAGER_URL={description['urls']['manager']}")
