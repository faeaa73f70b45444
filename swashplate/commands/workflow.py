"""``swashplate workflow``: tasks that depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swashplate.commands import group_commands, output
from swashplate.commands.arguments import Definition, Wait
from swashplate.commands.connection import AsJson, ManagerUrl
from swashplate.commands.groups import Group

if TYPE_CHECKING:
    from swashplate.client import Client, Workflow

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, epilog=output.EXIT_STATUS)


@app.callback()
def workflow() -> None:
    """Workflows: tasks that depend on each other and run in that order, some only if others failed."""


@app.command("create", epilog=output.example("swashplate workflow create examples/workflow.yaml --start --wait"))
def create(
    definition: Definition,
    name: Annotated[str, typer.Option(help="In place of the name in the file.")] = "",
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    wait: Wait = False,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """Create a workflow from a YAML or JSON file, and print its id."""
    from swashplate.commands.definitions import load

    if wait and not start:
        raise typer.BadParameter("--wait needs --start: a workflow that was not started does not end")
    body = load(definition, {"name", "tasks"})

    async def made(client: Client) -> Workflow:
        return await client.workflows.create(body["tasks"], name=name or str(body.get("name", "")), start=start)

    group_commands.make("workflow", made, wait=wait, manager=manager, as_json=as_json)


group_commands.add_to(app, "workflow")
