"""``swashplate provision``: create the identities that take part; ``swashplate identity``: serve them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swashplate.words import counted

if TYPE_CHECKING:
    from provision.credentials import Credentials

provision = typer.Typer(
    add_completion=False,
    help="Create the domain, channel, clients and keys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@provision.callback()
def _group() -> None:
    """Create the domain, channel, clients and keys."""


_PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@provision.command(context_settings=_PASSED_ON, add_help_option=False)
def supermq(context: typer.Context) -> None:
    """Provision in SuperMQ or our identity service: make or find the clients, and write their ids and keys."""
    from provision import provision_smq

    provision_smq.run(context.args, program="swashplate provision supermq", env_file=Path(".env"))


@provision.command(context_settings=_PASSED_ON, add_help_option=False)
def clear(context: typer.Context) -> None:
    """Blank every id and key in the env file, and leave the rest of it as it is."""
    from provision import provision_smq

    provision_smq.run(["clear", *context.args], program="swashplate provision", env_file=Path(".env"))


@provision.command()
def local(
    env_file: Annotated[Path, typer.Option(help="Where ids and keys are kept; completed, never replaced.")] = Path(
        ".env"
    ),
    proplets: Annotated[int, typer.Option(min=1, help="How many proplets take part.")] = 3,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="Print the keys too.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object, without keys.")] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="Also make them known to the identity service and the broker that keep their state here."),
    ] = None,
    broker: Annotated[str, typer.Option(help="Which broker runs there: embedded or mosquitto.")] = "embedded",
    broker_host: Annotated[str, typer.Option(help="Where the broker listens for MQTT.")] = "127.0.0.1",
    broker_port: Annotated[int, typer.Option(min=1, max=65535)] = 1883,
    legacy: Annotated[
        bool,
        typer.Option("--legacy", envvar="IDENTITY_LEGACY", help="Also grant the topics Propeller's components share."),
    ] = False,
) -> None:
    """Provision for a broker on this machine: complete the env file, and write the broker's files."""
    import asyncio

    from provision.credentials import table
    from provision.local import prepare_broker, provision_local

    credentials, changed = provision_local(env_file, proplets)
    broker_changed = False
    if state_dir is not None:
        broker_changed = asyncio.run(
            prepare_broker(state_dir, credentials, broker=broker, host=broker_host, port=broker_port, legacy=legacy)
        )
    if json_output:
        _print_json(credentials, env_file, changed=changed)
        return
    print("\n".join(table(credentials, show_keys=show_keys)))
    extra = len(credentials.proplets) - proplets
    if extra > 0:
        print(
            f"\nKept {counted(extra, 'proplet')} beyond the {proplets} asked for; remove their lines from {env_file} by hand."
        )
    done = f"Ids and keys are in {env_file}." if changed else f"Nothing changed: {env_file} already holds all of it."
    print(f"\n{done}")
    if state_dir is not None:
        print(f"The broker's files in {state_dir / 'broker'} are {'new' if broker_changed else 'unchanged'}.")


def _print_json(credentials: Credentials, env_file: Path, *, changed: bool) -> None:
    import json

    print(
        json.dumps(
            {
                "domain_id": credentials.domain_id,
                "channel_id": credentials.channel_id,
                "clients": {c.name: {"id": c.id} for c in credentials.clients},
                "env_file": str(env_file),
                "changed": changed,
            }
        )
    )


def identity() -> None:
    """Run the identity service: SuperMQ's provisioning routes, for a broker of ours."""
    from provision.identity.__main__ import main

    main()
