"""``swashplate proplet``: the proplets that a manager knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swashplate.commands import naming, output
from swashplate.commands.arguments import Limit, Offset, PropletId
from swashplate.commands.connection import AsJson, ManagerUrl, speak
from swashplate.commands.groups import Group
from swashplate.words import counted

if TYPE_CHECKING:
    from swashplate.client import Client, Metric, Page, Proplet

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, epilog=output.EXIT_STATUS)


@app.callback()
def proplet() -> None:
    """Proplets: the workers at the edge that run tasks."""


def state_of(proplet: Proplet) -> str:
    """In one word or two: is it there, and does it take work?"""
    if not proplet.alive:
        return "offline"
    return "draining" if proplet.draining else "cordoned" if proplet.cordoned else "alive"


@app.command("list", epilog=output.example("swashplate proplet list --status active"))
def list_proplets(
    status: Annotated[str, typer.Option(help="Only these: active or inactive.")] = "",
    offset: Offset = 0,
    limit: Limit = 100,
    manager: ManagerUrl = "",
    as_json: AsJson = False,
) -> None:
    """List proplets: is each there, what does it do, what can it do."""

    async def work(client: Client) -> Page[Proplet]:
        return await client.proplets.list(offset=offset, limit=limit, status=status)

    page = speak(manager, work)
    if as_json:
        output.emit(page.document)
        return
    ids = [each.id for each in page.items]
    rows = [
        (
            output.short(each.id, ids),
            each.name,
            output.coloured(state_of(each)),
            str(each.task_count),
            _slots(each),
            output.ago(each.last_alive_at),
            " ".join(f"{k}={v}" for k, v in each.capabilities.labels.items()),
        )
        for each in page.items
    ]
    output.table(("id", "name", "state", "tasks", "slots", "heard of", "labels"), rows, wrap=("name", "labels"))
    output.more(offset, len(page.items), page.total, "proplet")


def _slots(proplet: Proplet) -> str:
    slots = proplet.capabilities.slots
    return f"{slots}" if proplet.free_slots is None else f"{proplet.free_slots} of {slots} free"


@app.command("show", epilog=output.example("swashplate proplet show 3f2a"))
def show(proplet: PropletId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Show everything about a proplet."""

    async def work(client: Client) -> Proplet:
        return await client.proplets.get(await naming.proplet(client, proplet))

    found = speak(manager, work)
    if as_json:
        output.emit(found.document)
        return
    can = found.capabilities
    output.shown(
        [
            ("id", found.id),
            ("name", found.name),
            ("state", output.coloured(state_of(found))),
            (
                "heard of",
                f"{output.at(found.last_alive_at)} ({output.ago(found.last_alive_at)})" * bool(found.last_alive_at),
            ),
            ("tasks", str(found.task_count)),
            ("slots", _slots(found)),
            ("namespace", found.namespace),
            ("protocol", "shared topics (Propeller's)" if found.legacy else ""),
            ("labels", can.labels),
            ("datasets", can.datasets),
            ("cpus", can.cpu or ""),
            ("memory", output.size(can.memory_bytes) if can.memory_bytes else ""),
            ("architecture", can.arch),
            ("wasm features", can.wasm_features),
            ("confinement", can.confinement),
            ("binaries", f"{len(can.digests)} at hand" if can.digests else ""),
            *((f"metadata {name}", value) for name, value in found.metadata.items()),
        ]
    )


def _change(proplet: str, do: str, manager: str, *, as_json: bool, said: str) -> None:
    async def work(client: Client) -> Proplet:
        full = await naming.proplet(client, proplet)
        change = {
            "cordon": client.proplets.cordon,
            "drain": client.proplets.drain,
            "uncordon": client.proplets.uncordon,
        }
        return await change[do](full)

    found = speak(manager, work)
    if as_json:
        output.emit(found.document)
    else:
        busy = f"; it still has {counted(found.task_count, 'task')}" if found.task_count and do != "uncordon" else ""
        output.note(f"proplet {found.id} {said}{busy}")


@app.command("cordon", epilog=output.example("swashplate proplet cordon 3f2a"))
def cordon(proplet: PropletId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Give a proplet no new work; what it has goes on."""
    _change(proplet, "cordon", manager, as_json=as_json, said="takes no new work")


@app.command("drain", epilog=output.example("swashplate proplet drain 3f2a"))
def drain(proplet: PropletId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Give a proplet no new work, and move what would stand there for ever."""
    _change(proplet, "drain", manager, as_json=as_json, said="is draining")


@app.command("uncordon", epilog=output.example("swashplate proplet uncordon 3f2a"))
def uncordon(proplet: PropletId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
    """Let a proplet have work again."""
    _change(proplet, "uncordon", manager, as_json=as_json, said="takes work again")


@app.command("delete", epilog=output.example("swashplate proplet delete 3f2a"))
def delete(proplet: PropletId, manager: ManagerUrl = "") -> None:
    """Forget a proplet that has no work. One that still runs will register again."""

    async def work(client: Client) -> str:
        full = await naming.proplet(client, proplet)
        await client.proplets.delete(full)
        return full

    output.note(f"proplet {speak(manager, work)} deleted")


@app.command("metrics", epilog=output.example("swashplate proplet metrics 3f2a --limit 5"))
def metrics(
    proplet: PropletId, offset: Offset = 0, limit: Limit = 20, manager: ManagerUrl = "", as_json: AsJson = False
) -> None:
    """List what a proplet has measured of its machine."""

    async def work(client: Client) -> Page[Metric]:
        return await client.proplets.metrics(await naming.proplet(client, proplet), offset=offset, limit=limit)

    page = speak(manager, work)
    if as_json:
        output.emit(page.document)
        return
    rows = []
    for each in page.items:
        percent, resident = each.cpu_metrics.get("percent"), each.memory_metrics.get("rss_bytes")
        rows.append(
            (
                str(each.timestamp),
                f"{percent:.1f} %" if isinstance(percent, int | float) else "",
                output.size(resident) if isinstance(resident, int | float) else "",
            )
        )
    output.table(("time", "cpu", "memory"), rows, wrap=("time",))
    output.more(offset, len(page.items), page.total, "sample")


@app.command("history", epilog=output.example("swashplate proplet history 3f2a"))
def history(
    proplet: PropletId, offset: Offset = 0, limit: Limit = 20, manager: ManagerUrl = "", as_json: AsJson = False
) -> None:
    """List when a proplet was heard of."""

    async def work(client: Client) -> tuple[Any, list[str]]:
        page = await client.proplets.alive_history(await naming.proplet(client, proplet), offset=offset, limit=limit)
        return page.document, [f"{output.at(each.at)}  {output.ago(each.at)}" for each in page.items]

    document, lines = speak(manager, work)
    if as_json:
        output.emit(document)
    else:
        print("\n".join(lines))
