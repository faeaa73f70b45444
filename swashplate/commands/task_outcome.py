"""What came of a task: ``swashplate task invoke``, ``results``, ``attempts`` and ``metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swashplate.commands import naming, output, reports, values
from swashplate.commands.arguments import Limit, Offset, TaskId
from swashplate.commands.connection import AsJson, ManagerUrl, speak

if TYPE_CHECKING:
    from swashplate.client import Attempt, Client, Invocation, Metric, Page, Results


def invoke(
    task: TaskId,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="In place of the task's; -- before one that begins with -."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="On top of the task's.")] = None,
    timeout: Annotated[
        float, typer.Option(parser=values.duration, metavar="DURATION", help="For this call, at most 5m.")
    ] = 30.0,
    later: Annotated[bool, typer.Option("--async", help="Print the invocation's id and do not wait.")] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Of a call that completes tell neither what it used nor what it wrote to stderr."
        ),
    ] = False,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """Call a latent task that is ready, and print what it returns.

    The result alone is on stdout; what the call used of what it was allowed, and the end of its stderr, are on stderr.
    """
    variables = values.pairs(env or (), "--env")
    asked: list[Invocation] = []

    async def work(client: Client) -> Invocation:
        full = await naming.task(client, task)
        submitted = await client.tasks.submit(full, inputs or (), env=variables, timeout=timeout)
        asked.append(submitted)
        return submitted if later else await client.tasks.wait_invocation(full, submitted.invocation_id)

    def interrupted() -> None:
        output.note(f"interrupted; invocation {asked[0].invocation_id} goes on" if asked else "interrupted")

    found = speak(manager, work, interrupted=interrupted)
    if as_json:
        output.emit(found.document)
    elif later:
        print(found.invocation_id)
    else:
        output.result(found.results)
    failed = found.status == "failed"
    if failed:
        reason = reports.reason(found.error, found.code, found.report)
        output.note(f"error: invocation {found.invocation_id} failed{reason}")
    elif found.ended and not quiet:
        said = reports.summary(found.report)
        output.note(f"invocation {found.invocation_id} completed" + f" ({said})" * bool(said))
    if failed or not quiet:
        reports.tell_log(found.report)
    if failed:
        raise typer.Exit(1)


def results(
    task: TaskId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until the task has ended.")] = False,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """Print a task's result, raw; of a broadcast task one JSON object, proplet id → result."""

    async def work(client: Client) -> Results:
        full = await naming.task(client, task)
        if wait:
            await client.tasks.wait(full)
        return await client.tasks.results(full)

    found = speak(manager, work)
    if as_json:
        output.emit(found.document)
    else:
        output.result(found.results)
    if not found.ended:
        output.note(f"the task is {found.status}: there is no result yet; --wait waits for it")
    elif found.status != "completed":
        output.note(f"error: the task {_verb(found.status)}{reports.reason(found.error, found.code, found.report)}")
        reports.tell_log(found.report)
        raise typer.Exit(1)


def _verb(status: str) -> str:
    return status if status == "failed" else f"was {status}"


def attempts(task: TaskId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """List every attempt of every run: where, when, and how it ended."""

    async def work(client: Client) -> Page[Attempt]:
        return await client.tasks.attempts(await naming.task(client, task))

    page = speak(manager, work)
    if as_json:
        output.emit(page.document)
        return
    rows = [
        (
            str(each.attempt),
            str(each.run or ""),
            output.coloured(each.status + (f" ({each.stage})" if each.stage and not each.finish_time else "")),
            output.short(each.proplet_id),
            output.at(each.offered_at),
            output.took(each.accepted_at or each.created_at, each.finish_time),
            each.error or ("large" if each.results_omitted else output.brief(each.results)),
        )
        for each in page.items
    ]
    output.table(("attempt", "run", "status", "proplet", "placed", "took", "outcome"), rows, wrap=("outcome",))
    output.more(0, len(page.items), page.total, "attempt")


def metrics(
    task: TaskId, offset: Offset = 0, limit: Limit = 20, manager: ManagerUrl = "", as_json: AsJson = False
) -> None:
    """List what was measured while a task ran."""

    async def work(client: Client) -> Page[Metric]:
        return await client.tasks.metrics(await naming.task(client, task), offset=offset, limit=limit)

    page = speak(manager, work)
    if as_json:
        output.emit(page.document)
        return
    rows = [(str(each.timestamp), output.short(each.proplet_id), *sample(each.metrics)) for each in page.items]
    output.table(("time", "proplet", "cpu", "memory", "read", "written"), rows, wrap=("time",))
    output.more(offset, len(page.items), page.total, "sample")


def sample(measured: dict[str, Any]) -> tuple[str, str, str, str]:
    """The cells of one sample: CPU, memory, bytes read and written."""

    def bytes_of(name: str) -> str:
        return output.size(measured[name]) if isinstance(measured.get(name), int | float) else ""

    percent = measured.get("cpu_percent")
    return (
        f"{percent:.1f} %" if isinstance(percent, int | float) else "",
        bytes_of("memory_bytes"),
        bytes_of("disk_read_bytes"),
        bytes_of("disk_write_bytes"),
    )
