"""The commands that jobs and workflows have in common, made for each of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swashplate.commands import completing, group_views, naming, output
from swashplate.commands.arguments import Limit, Offset, Wait
from swashplate.commands.connection import AsJson, ManagerUrl, speak

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from swashplate.client import Acknowledged, Client, Page
    from swashplate.client.groups import Jobs, Workflows
    from swashplate.commands.group_views import Group

GroupId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Its id, a beginning of it that no other has, or its name.",
        autocompletion=completing.group_ids,
    ),
]


def part_of(client: Client, noun: str) -> Jobs | Workflows:
    return client.jobs if noun == "job" else client.workflows


async def full_id(client: Client, given: str, noun: str) -> str:
    return await (naming.job if noun == "job" else naming.workflow)(client, given)


def make(noun: str, create: Callable[[Client], Awaitable[Group]], *, wait: bool, manager: str, as_json: bool) -> None:
    """Create a whole and print its id, or follow it to its end."""
    made: list[Group] = []

    async def work(client: Client) -> Group:
        made.append(await create(client))
        return await group_views.follow(part_of(client, noun).watch(made[0].id)) if wait else made[0]

    found = speak(manager, work, interrupted=lambda: _goes_on(noun, made[0].id if made else ""))
    if wait:
        _conclude(found, as_json=as_json)
    elif as_json:
        output.emit(found.document)
    else:
        print(found.id)


def _conclude(group: Group, *, as_json: bool) -> None:
    if as_json:
        output.emit(group.document)
    else:
        group_views.draw(group)
    if not group.succeeded:
        raise typer.Exit(1)


def _goes_on(noun: str, group_id: str) -> None:
    if group_id:
        output.note(f"interrupted; {noun} {group_id} goes on: swashplate {noun} stop {group_id[:8]} stops it")
    else:
        output.note("interrupted")


def add_to(app: typer.Typer, noun: str) -> None:
    """Gives ``app`` list, show, start, stop and delete."""

    def list_groups(
        status: Annotated[str, typer.Option(help="Only these: pending, running, completed or failed.")] = "",
        offset: Offset = 0,
        limit: Limit = 20,
        manager: ManagerUrl = "",
        as_json: AsJson = False,
    ) -> None:
        async def work(client: Client) -> Page[Group]:
            return await part_of(client, noun).list(offset=offset, limit=limit, status=status)  # type: ignore[return-value]

        page = speak(manager, work)
        if as_json:
            output.emit(page.document)
        else:
            group_views.listed(page, noun)

    def show(group: GroupId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
        async def work(client: Client) -> Group:
            return await part_of(client, noun).get(await full_id(client, group, noun))

        found = speak(manager, work)
        if as_json:
            output.emit(found.document)
        else:
            group_views.draw(found)

    def start(group: GroupId, wait: Wait = False, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
        full: list[str] = []

        async def work(client: Client) -> tuple[Acknowledged, Group | None]:
            part = part_of(client, noun)
            full.append(await full_id(client, group, noun))
            started = await part.start(full[0])
            return started, await group_views.follow(part.watch(full[0])) if wait else None

        started, ended = speak(manager, work, interrupted=lambda: _goes_on(noun, full[0] if full else ""))
        if ended is not None:
            _conclude(ended, as_json=as_json)
        elif as_json:
            output.emit(started.document)
        else:
            output.note(f"{noun} {full[0]} started")

    def stop(group: GroupId, manager: ManagerUrl = "", as_json: AsJson = False) -> None:
        async def work(client: Client) -> tuple[str, Acknowledged]:
            full = await full_id(client, group, noun)
            return full, await part_of(client, noun).stop(full)

        full, stopped = speak(manager, work)
        if as_json:
            output.emit(stopped.document)
        else:
            output.note(f"{noun} {full} stopped")

    def delete(group: GroupId, manager: ManagerUrl = "") -> None:
        async def work(client: Client) -> str:
            full = await full_id(client, group, noun)
            await part_of(client, noun).delete(full)
            return full

        output.note(f"{noun} {speak(manager, work)} deleted")

    for name, command, what in (
        ("list", list_groups, f"List {noun}s, newest first."),
        (
            "show",
            show,
            f"Draw a {noun}: what comes after what, how each task stands, and why those skipped were skipped.",
        ),
        ("start", start, f"Start a {noun}."),
        ("stop", stop, f"Stop a {noun}: what runs is interrupted, what has not begun does not begin."),
        ("delete", delete, f"Delete a {noun} with its tasks."),
    ):
        options = {"list": " --status running", "start": " 3f2a --wait"}.get(name, " 3f2a")
        app.command(name, help=what, epilog=output.example(f"swashplate {noun} {name}{options}"))(command)
