"""What a task is: ``swashplate task create``, ``update`` and ``upload``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swashplate.commands import naming, output
from swashplate.commands.arguments import TaskId
from swashplate.commands.connection import AsJson, ManagerUrl, speak
from swashplate.commands.options import task_options

if TYPE_CHECKING:
    from swashplate.client import Client, Task


async def _with_full_ids(client: Client, fields: dict[str, Any]) -> dict[str, Any]:
    sent = dict(fields)
    for name, resolve in (("proplet_id", naming.proplet), ("workflow_id", naming.workflow), ("job_id", naming.job)):
        if sent.get(name):
            sent[name] = await resolve(client, sent[name])
    if "depends_on" in sent:
        sent["depends_on"] = [await naming.task(client, each) for each in sent["depends_on"]]
    return sent


@task_options()
def create(
    name: Annotated[str, typer.Argument(help="The task's name; an export of that name is what runs, if there is one.")],
    *,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
    fields: dict[str, Any],
) -> None:
    """Create a task and print its id. What it runs is an --image, a --file, or uploaded later."""
    file: Path | None = fields.pop("file", None)

    async def work(client: Client) -> Task:
        sent = await _with_full_ids(client, fields)
        return await client.create({"name": name, **sent}, file=file, start=start)

    made = speak(manager, work)
    if as_json:
        output.emit(made.document)
    else:
        print(made.id)


@task_options()
def update(
    task: TaskId,
    *,
    name: Annotated[str, typer.Option(help="Another name.")] = "",
    manager: ManagerUrl = "",
    as_json: AsJson = False,
    fields: dict[str, Any],
) -> None:
    """Change what is named here of a task; the next start has it.

    While it runs, only its name, its metadata, its priority and its schedule can be changed.
    """
    if not fields and not name:
        raise typer.BadParameter("name at least one thing to change")

    file: Path | None = fields.pop("file", None)

    async def work(client: Client) -> Task:
        full = await naming.task(client, task)
        sent = await _with_full_ids(client, fields)
        if name:
            sent["name"] = name
        changed = await client.tasks.update(full, sent) if sent else None
        if file is not None:
            changed = await client.tasks.upload(full, file)
        assert changed is not None
        return changed

    changed = speak(manager, work)
    if as_json:
        output.emit(changed.document)
    else:
        output.note(f"task {changed.id} updated")


def upload(
    task: TaskId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .wasm file.")],
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """Give a task its binary."""

    async def work(client: Client) -> Task:
        return await client.tasks.upload(await naming.task(client, task), file)

    found = speak(manager, work)
    if as_json:
        output.emit(found.document)
    else:
        output.note(f"task {found.id} runs {file}" + (f" ({found.digest})" if found.digest else ""))
