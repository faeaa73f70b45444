"""``swashplate job``: tasks that are started and stopped together."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from swashplate.commands import group_commands, output
from swashplate.commands.arguments import Definition, Wait
from swashplate.commands.connection import AsJson, ManagerUrl
from swashplate.commands.groups import Group

if TYPE_CHECKING:
    from swashplate.client import Client, Job

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, epilog=output.EXIT_STATUS)


class ExecutionMode(StrEnum):
    parallel = "parallel"
    sequential = "sequential"
    configurable = "configurable"


@app.callback()
def job() -> None:
    """Jobs: tasks that are started and stopped together, at once or one after another."""


@app.command("create", epilog=output.example("swashplate job create examples/job.yaml --start --wait"))
def create(
    definition: Definition,
    name: Annotated[str, typer.Option(help="In place of the name in the file.")] = "",
    execution_mode: Annotated[
        ExecutionMode | None,
        typer.Option(
            "--mode",
            "--execution-mode",
            help="parallel: all at once; sequential: one after another; configurable: as depends_on of each task says.",
        ),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    wait: Wait = False,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """Create a job from a YAML or JSON file, and print its id."""
    from swashplate.commands.definitions import load

    if wait and not start:
        raise typer.BadParameter("--wait needs --start: a job that was not started does not end")
    body = load(definition, {"name", "tasks", "execution_mode"})
    mode = execution_mode.value if execution_mode else str(body.get("execution_mode", "parallel"))

    async def made(client: Client) -> Job:
        title = name or str(body.get("name") or definition.stem)
        return await client.jobs.create(title, body["tasks"], execution_mode=mode, start=start)

    group_commands.make("job", made, wait=wait, manager=manager, as_json=as_json)


group_commands.add_to(app, "job")
