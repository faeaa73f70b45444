"""``swashplate task``: single tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swashplate.commands import naming, output, reports, task_definition, task_logs, task_outcome, values
from swashplate.commands.arguments import Offset, TaskId
from swashplate.commands.connection import AsJson, ManagerUrl, speak
from swashplate.commands.groups import Group

if TYPE_CHECKING:
    from swashplate.client import Acknowledged, Client, Page, Report, Started, Task

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, epilog=output.EXIT_STATUS)

Status = Annotated[
    str,
    typer.Option(help="Only these: pending, scheduled, running, completed, failed, skipped or interrupted."),
]


@app.callback()
def task() -> None:
    """Single tasks: made, started, looked at. `swashplate run` does it all in one."""


app.command(
    "create",
    epilog=output.example(
        "swashplate task create add --file examples/add.wasm --input 2 --input 40",
        "swashplate task create clean --image registry.example/clean:1 --schedule '0 3 * * *' --timezone Europe/Paris"
        " --recurring",
    ),
)(task_definition.create)
app.command("update", epilog=output.example("swashplate task update 3f2a --priority 90 --schedule ''"))(
    task_definition.update
)
app.command("upload", epilog=output.example("swashplate task upload 3f2a examples/add.wasm"))(task_definition.upload)
app.command(
    "invoke", epilog=output.example("swashplate task invoke 3f2a 2 40", "swashplate task invoke 3f2a --async 2 40")
)(task_outcome.invoke)
app.command("results", epilog=output.example("swashplate task results 3f2a --wait"))(task_outcome.results)
app.command("attempts", epilog=output.example("swashplate task attempts 3f2a"))(task_outcome.attempts)
app.command("metrics", epilog=output.example("swashplate task metrics 3f2a"))(task_outcome.metrics)
app.command(
    "logs",
    epilog=output.example("swashplate task logs 3f2a --follow", "swashplate task logs 3f2a --attempt 2 --tail 20"),
)(task_logs.logs)


@app.command("list", epilog=output.example("swashplate task list --status failed --metadata site=north"))
def list_tasks(
    status: Status = "",
    name: Annotated[str, typer.Option(help="Only those of this name.")] = "",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Only those with this; K:=JSON for what is no text.")
    ] = None,
    job: Annotated[str, typer.Option(help="Only those of this job.")] = "",
    workflow: Annotated[str, typer.Option(help="Only those of this workflow.")] = "",
    offset: Offset = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Show at most so many.")] = 20,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """List tasks, newest first."""
    wanted = values.typed_pairs(metadata or (), "--metadata")

    async def work(client: Client) -> Page[Task]:
        return await client.tasks.list(
            offset=offset,
            limit=limit,
            status=status,
            name=name,
            metadata=wanted,
            job_id=await naming.job(client, job) if job else "",
            workflow_id=await naming.workflow(client, workflow) if workflow else "",
        )

    page = speak(manager, work)
    if as_json:
        output.emit(page.document)
        return
    ids = [each.id for each in page.items]
    rows = [
        (
            output.short(each.id, ids),
            each.name,
            output.coloured(each.stage if each.status == "running" and each.stage else each.status),
            output.short(each.proplet_id) or ("every one" if each.broadcast else ""),
            output.ago(each.created_at),
            output.took(each.start_time, each.finish_time),
            _remark(each),
        )
        for each in page.items
    ]
    output.table(("id", "name", "status", "proplet", "created", "took", "remark"), rows, wrap=("name", "remark"))
    output.more(offset, len(page.items), page.total, "task")


def _remark(task: Task) -> str:
    if task.error:
        return task.error
    if task.waiting and not task.ended:
        return task.waiting
    return f"next run {output.ago(task.next_run)}" if task.next_run else ""


@app.command("show", epilog=output.example("swashplate task show 3f2a", "swashplate task show 3f2a --json"))
def show(task: TaskId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Show everything about a task; while it waits, why."""

    async def work(client: Client) -> tuple[Task, Report | None]:
        found = await client.tasks.get(await naming.task(client, task))
        return found, (await client.tasks.results(found.id)).report if found.ended and not as_json else None

    found, report = speak(manager, work)
    if as_json:
        output.emit(found.document)
        return
    output.shown([*_fields(found), *reports.fields(report)])


def _fields(task: Task) -> list[tuple[str, Any]]:
    from swashplate import limits

    return [
        ("id", task.id),
        ("name", task.name),
        ("status", output.coloured(task.status + (f" ({task.stage})" if task.stage and not task.ended else ""))),
        ("waiting", "" if task.ended else task.waiting),
        ("error", task.error + (f" [{task.code}]" if task.code else "")),
        (
            "results",
            "large; swashplate task results shows them" if task.results_omitted else output.brief(task.results),
        ),
        ("image", task.image_url),
        ("digest", task.digest),
        ("inputs", task.inputs),
        ("cli args", task.cli_args),
        ("env", task.env),
        ("dataset", task.dataset),
        ("proplet", task.proplet_id or ("every one" if task.broadcast else "")),
        ("selector", task.selector),
        ("memory", f"{task.memory_bytes} bytes" if task.memory_bytes else ""),
        ("wasm features", task.wasm_features),
        ("priority", task.priority),
        ("timeout", "" if task.standing or task.timeout_s is None else f"{task.timeout_s:g} s"),
        ("retries", task.retries),
        ("kind", " ".join(w for w in (task.kind, task.mode, "daemon" * task.daemon, "latent" * task.latent) if w)),
        ("restart", task.restart if task.daemon else ""),
        ("schedule", f"{task.schedule} {task.timezone}".strip() if task.schedule else ""),
        ("next run", f"{output.at(task.next_run)} ({output.ago(task.next_run)})" * bool(task.next_run)),
        ("missed run", task.missed_run if task.schedule else ""),
        ("workflow", task.workflow_id),
        ("job", task.job_id),
        ("depends on", task.depends_on),
        ("run if", task.run_if),
        ("limits", {limits.NAMES.get(k, k): limits.shown(k, v) for k, v in task.limits.items()}),
        ("isolation", task.isolation),
        ("deterministic", f"seed {task.seed}" if task.deterministic else ""),
        ("asks for", output.compact(task.capabilities or None)),
        ("signed by", list(task.signatures)),
        ("metadata", output.compact(task.metadata or None)),
        ("run", task.run or ""),
        ("attempt", task.attempt or ""),
        ("created", output.at(task.created_at)),
        ("started", output.at(task.start_time)),
        ("finished", output.at(task.finish_time)),
        ("running for", output.lasting(task.start_time) if task.status == "running" else ""),
        ("took", output.took(task.start_time, task.finish_time)),
    ]


@app.command("start", epilog=output.example("swashplate task start 3f2a"))
def start(task: TaskId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Start a task, once more if it has ended; an attempt of its own is recorded each time."""

    async def work(client: Client) -> tuple[str, Started]:
        full = await naming.task(client, task)
        return full, await client.tasks.start(full)

    full, started = speak(manager, work)
    if as_json:
        output.emit(started.document)
    else:
        output.note(f"task {full} started (attempt {started.attempt})")


@app.command("stop", epilog=output.example("swashplate task stop 3f2a"))
def stop(task: TaskId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Stop a task; it ends as interrupted."""

    async def work(client: Client) -> tuple[str, Acknowledged]:
        full = await naming.task(client, task)
        return full, await client.tasks.stop(full)

    full, stopped = speak(manager, work)
    if as_json:
        output.emit(stopped.document)
    else:
        output.note(f"task {full} is stopping")


@app.command("delete", epilog=output.example("swashplate task delete 3f2a 91bc"))
def delete(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK", help="Ids, beginnings of ids, or names.")],
    manager: ManagerUrl = "",
) -> None:
    """Delete tasks, with their results and attempts."""

    async def work(client: Client) -> None:
        for full in [await naming.task(client, each) for each in tasks]:
            await client.tasks.delete(full)
            output.note(f"task {full} deleted")

    speak(manager, work)
