"""``swashplate up``, ``down`` and ``status``."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from swashplate.stack.health import Health

StateDir = Annotated[Path, typer.Option(help="Where everything is kept.")]


def _table(description: dict[str, Any], health: Health) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("service", "state", "where"):
        table.add_column(column, no_wrap=column != "state", overflow="fold")
    rows = {"broker": description["broker"], **description["urls"], **description["proplets"]}
    for name, where in rows.items():
        if name in health.states:
            table.add_row(name, health.states[name], where)
    console = Console()
    console.print(table)
    for line in (
        *(f"policy       {line}" for line in _policies(description["policies"], health)),
        f"credentials  {description['env_file']}",
        f"logs         {description['logs']}",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _digest(file: str) -> str:
    import hashlib

    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def _policies(files: dict[str, str], health: Health) -> list[str]:
    """Which one holds, in one line when all proplets have the same."""

    def said(name: str, file: str) -> str:
        if not file:
            return "none: no task is granted more than the settings allow"
        digest = health.digests.get(name)
        if digest is None:
            return f"{file}; whether it holds is not known"
        if _digest(file).startswith(digest):
            return f"{file} (sha256 {digest}…)"
        return f"an earlier {file} (sha256 {digest}…); why not the present one: swashplate logs {name}"

    lines = {name: said(name, file) for name, file in files.items() if name in health.states}
    if len(set(lines.values())) == 1:
        return [*set(lines.values())]
    return [f"{name}: {line}" for name, line in lines.items()]


def status(
    services: Annotated[list[str] | None, typer.Argument(help="Only these; every one when none is named.")] = None,
    state_dir: StateDir = Path(".swashplate"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for programs.")] = False,
) -> None:
    """Show a running stack: URLs, ids, health. Exits 1 when none runs or something is down."""
    from swashplate.stack import control
    from swashplate.stack.description import described
    from swashplate.stack.health import look
    from swashplate.stack.services import chosen

    description = described(state_dir)
    known = control.ask(state_dir, control.Request(do="states"), print)
    states = known["services"]
    named = chosen(services or [], list(states))
    health = asyncio.run(look(description))
    found = health.states | {name: state for name, state in states.items() if state != "running"}
    health.states = {
        name: state for name, state in found.items() if name in named or (not services and name == "broker")
    }
    if as_json:
        policies = {
            name: {"file": file, "digest": health.digests.get(name, "")}
            for name, file in description["policies"].items()
        }
        more = {"health": health.states, "policies": policies, "pids": known["pids"]}
        print(json.dumps({**description, **more}))
    else:
        _table(description, health)
    if any(state not in {"ok", "alive"} for state in health.states.values()):
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
    policy: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="What every proplet grants to tasks, in place of PROPLET_POLICY in the env file; without either, nothing.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Run in the background; a stack that runs already takes over a changed env file."
        ),
    ] = False,
) -> None:
    """Start the whole stack on this machine and keep it running until Ctrl-C or SIGTERM, or in the background."""
    from swashplate.stack import daemon
    from swashplate.stack.health import look
    from swashplate.stack.services import Options

    options = Options(state_dir.resolve(), env_file.resolve(), proplets, port_offset, broker, policy)
    if detach:
        _in_background(context, options)
        return

    async def ready(running: Any) -> None:
        description = running.described()
        _table(description, await look(description))
        print("ready; Ctrl-C stops everything", flush=True)

    asyncio.run(daemon.keep_up(options, daemon.tell, ready))


def _in_background(context: typer.Context, options: Any) -> None:
    import os

    from swashplate.folders import is_held
    from swashplate.stack import control, daemon
    from swashplate.stack.description import described
    from swashplate.stack.environment import settings_of
    from swashplate.stack.health import look

    if is_held(options.state_dir):
        given = {
            name: value if isinstance(value, int) else str(value)
            for name, value in vars(options).items()
            if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
        }
        asked = control.Request(do="apply", options=given, shell=settings_of(os.environ))
        control.ask(options.state_dir, asked, daemon.tell)
    else:
        daemon.detach(options, daemon.tell)
    description = described(options.state_dir)
    _table(description, asyncio.run(look(description)))
    elsewhere = "" if options.state_dir == Path(".swashplate").resolve() else f" --state-dir {options.state_dir}"
    print(f"running in the background; swashplate down{elsewhere} stops everything")
    if elsewhere:
        print(f"commands find it with: export SWASHPLATE_MANAGER_URL={description['urls']['manager']}")
