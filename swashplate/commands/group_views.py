"""What the commands for jobs and for workflows share: lists, pictures, and following a whole."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from swashplate.commands import output

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from swashplate.client import Job, Page, Workflow
    from swashplate.commands.drawing import Node

    Group = Job | Workflow


def picture(group: Group) -> RenderableType:
    """The whole as a tree: who comes after whom, how each stands, and why those that did not run did not."""
    from rich.text import Text
    from rich.tree import Tree

    from swashplate.commands.drawing import forest

    title = Text.assemble(
        (f"{group.noun} ", "bright_black"),
        (output.clean(group.name), "bold"),
        "  ",
        output.coloured(group.status),
        (f"  {output.took(group.start_time, group.finish_time)}  {output.short(group.id)}".rstrip(), "bright_black"),
    )
    tree = Tree(title, guide_style="bright_black")

    def grow(above: Tree, nodes: Sequence[Node]) -> None:
        for node in nodes:
            grow(above.add(_line(node, group)), node.children)

    grow(tree, forest(group.tasks))
    return tree


def _line(node: Node, group: Group) -> RenderableType:
    from rich.text import Text

    from swashplate.commands.drawing import SIGNS, why

    task = node.task
    colour = output.COLOURS.get(task.status, "")
    words = Text.assemble((SIGNS.get(task.status, "?"), colour), " ", (output.clean(task.name), "bold"), "  ")
    words.append_text(output.coloured(task.stage if task.status == "running" and task.stage else task.status))
    said = [
        output.took(task.start_time, task.finish_time),
        task.error if task.status == "failed" else why(task, group.tasks),
    ]
    if node.also:
        said.append(f"also after {', '.join(node.also)}")
    if task.run_if == "failure":
        said.append("runs if one before it fails")
    if task.succeeded and task.results is not None:
        said.append(f"→ {output.brief(task.results)[:60]}")
    remarks = " · ".join(output.clean(each) for each in said if each)
    return words.append(f"  {remarks}" if remarks else "", style="bright_black")


def draw(group: Group) -> None:
    output.put(picture(group))


def listed(page: Page[Group], noun: str) -> None:
    from swashplate.client.answers import Job

    ids = [each.id for each in page.items]
    rows = [
        (
            output.short(each.id, ids),
            each.name,
            *([each.execution_mode] if isinstance(each, Job) else []),
            output.coloured(each.status),
            f"{each.tasks_ended}/{each.tasks_total}",
            output.ago(each.created_at),
            output.took(each.start_time, each.finish_time),
        )
        for each in page.items
    ]
    mode = ("mode",) if noun == "job" else ()
    output.table(("id", "name", *mode, "status", "tasks ended", "created", "took"), rows, wrap=("name",))
    output.more(page.offset, len(page.items), page.total, noun)


async def follow(found: AsyncIterator[Group]) -> Group:
    """The whole when it has ended, told on stderr: redrawn on a terminal, else a line for each task that changes."""
    last: Group | None = None
    if not sys.stderr.isatty():
        told: dict[str, str] = {}
        async for last in found:  # the last one is the answer
            for task in last.tasks:
                if told.get(task.id, "pending") != task.status:
                    output.note(f"{task.name}: {task.status}" + (f": {task.error}" if task.error else ""))
                told[task.id] = task.status
    else:
        from rich.live import Live

        with Live(console=output.console(stderr=True), auto_refresh=False, transient=True) as live:
            async for last in found:
                live.update(picture(last), refresh=True)
    assert last is not None
    return last
