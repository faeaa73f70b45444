"""The ``swashplate`` command: every room registers its own commands as entry points, loaded only when asked for."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.main import get_command

from swashplate import __version__
from swashplate.commands.groups import Group
from swashplate.errors import SwashplateError

GROUP = "swashplate.commands"

WORK, STACK, LEARNING, SERVICES = "Work", "A stack on this machine", "Images, learning, setup", "Single services"
PANELS = {
    **dict.fromkeys(("run", "task", "job", "workflow", "proplet"), WORK),
    **dict.fromkeys(("up", "status", "ps", "logs", "start", "stop", "restart", "down"), STACK),
    **dict.fromkeys(("push", "image", "sign", "demo", "provision", "completion"), LEARNING),
}
"""Where ``swashplate --help`` shows a command; the services that ``up`` runs come last."""


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


class Commands(Group):
    """A group whose members are found by name and imported late, so that every command starts quickly."""

    def list_commands(self, ctx: Any) -> list[str]:
        """What people use most comes first, the services that a stack starts by itself last."""
        order = {name: place for place, name in enumerate(PANELS)}
        return sorted(_entries(), key=lambda name: (order.get(name, len(order)), name))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = _entries().get(cmd_name)
        if entry is None:
            return None
        loaded = entry.load()
        if not isinstance(loaded, typer.Typer):
            app = typer.Typer(add_completion=False)
            app.command(cmd_name)(loaded)
            loaded = app
        command: Any = get_command(loaded)
        command.name = cmd_name
        command.rich_help_panel = PANELS.get(cmd_name, SERVICES)
        return command


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"swashplate {__version__}")
        raise typer.Exit


@app.callback()
def swashplate(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Orchestrate WebAssembly work across machines, and federated learning on top of it."""


def main() -> None:
    """Run the command line; a known error is one sentence and a hint on stderr, and exit status 1."""
    try:
        app(prog_name="swashplate")
    except SwashplateError as error:
        print(f"error: {error.sentence}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
