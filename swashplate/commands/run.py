"""``swashplate run``: create, start, follow and the result, in one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swashplate.commands import naming, output
from swashplate.commands.connection import AsJson, ManagerUrl, speak
from swashplate.commands.options import task_options

if TYPE_CHECKING:
    from swashplate.client import Client, Report, Task

app = typer.Typer(add_completion=False)
_NOT_HERE = (
    "image_url file inputs schedule timezone is_recurring missed_run depends_on run_if workflow_id job_id".split()  # noqa: SIM905
)


@app.command(
    "run",
    epilog=output.example(
        "swashplate run examples/add.wasm --invoke add 2 40",
        "swashplate run examples/guests/c/greeter.wasm --invoke summarize '[1, 2, 4.5]'",
        "swashplate run registry.example/sensor:v2 --env SITE=north --selector gpu=true --retries 2",
        "swashplate run app.wasm --detach; then: swashplate task results ID",
    ),
)
@task_options(*_NOT_HERE)
def run(
    what: Annotated[str, typer.Argument(metavar="FILE_OR_IMAGE", help="A .wasm file, or an image's OCI reference.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Its inputs: argv of a command, numbers for a function, WAVE values for a component's function"
            " (a string also without quotes). Put -- before one that begins with -.",
        ),
    ] = None,
    *,
    name: Annotated[str, typer.Option(help="The task's name; without, that of the file or image.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--detach", "-w/-d", help="Follow it and print its result, or its id at once.")
    ] = True,
    stop_on_interrupt: Annotated[
        bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the task; otherwise it goes on without us.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Neither tell how it stands nor show its stderr; only, once, why it waits when that lasts.",
        ),
    ] = False,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
    fields: dict[str, Any],
) -> None:
    """Run a WASM file or image: create a task, start it, follow it, and print its result.

    The result alone is on stdout; what it writes to stderr is on stderr as it comes. A daemon or a latent task is followed
    until it runs or is ready.
    """
    from swashplate.commands import following

    began = time.monotonic()
    started: list[Task] = []

    async def work(client: Client) -> tuple[Task, Report | None]:
        if "proplet_id" in fields:
            fields["proplet_id"] = await naming.proplet(client, fields["proplet_id"])
        if name:
            fields["name"] = name
        task = await client.launch(what, inputs or (), **fields)
        started.append(task)
        if not wait:
            return task, None
        task = await client.tasks.whole(await following.follow(client, task, quiet=quiet))
        failed = task.ended and not task.succeeded
        return task, (await client.tasks.results(task.id)).report if failed else None

    def interrupted() -> None:
        _interrupted(started, manager, stop=stop_on_interrupt)

    task, report = speak(manager, work, interrupted=interrupted)
    failed = task.ended and not task.succeeded
    if wait and (not quiet or failed):
        following.conclude(task, began=began, report=report, quiet=quiet)
    if as_json:
        output.emit(task.document)
    elif wait:
        output.result(task.results)
    else:
        print(task.id)
    if failed:
        raise typer.Exit(1)


def _interrupted(started: list[Task], manager: str, *, stop: bool) -> None:
    if not started:
        output.note("interrupted before the manager answered; swashplate task list shows whether the task is there")
        return
    task_id = started[0].id
    if not stop:
        output.note(f"interrupted; task {task_id} goes on")
        output.note(f"hint: swashplate task stop {task_id[:8]} stops it; with --stop-on-interrupt Ctrl-C does")
        return

    async def halt(client: Client) -> None:
        await client.tasks.stop(task_id)

    output.note(f"interrupted; stopping task {task_id}")
    speak(manager, halt)
