"""What commands print: data on stdout, everything that is about it on stderr; colours and short ids on terminals only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

EXIT_STATUS = "Exit status: 0 success, 1 the task failed or an error, 2 wrong usage, 130 interrupted."
SHORT_ID = 8
BETWEEN = 3
"""Cells that a column of a table takes besides its text."""
NARROWEST = 6
UNBOUNDED = 10_000
"""Columns of a pipe: nothing is cut there."""

COLOURS = {
    "completed": "green",
    "failed": "red",
    "denied": "red",
    "lost": "red",
    "interrupted": "yellow",
    "skipped": "bright_black",
    "running": "cyan",
    "ready": "cyan",
    "accepted": "cyan",
    "alive": "green",
    "offline": "red",
    "cordoned": "yellow",
    "draining": "yellow",
}


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join([*(f"Example: {line}" for line in lines), EXIT_STATUS])


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream, width=None if stream.isatty() else UNBOUNDED, highlight=False, markup=False, emoji=False
    )


def clean(text: object) -> str:
    """Text of others that a terminal cannot be steered with: control characters are written out."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))


def note(text: str) -> None:
    print(clean(text), file=sys.stderr, flush=True)


def emit(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def coloured(status: str) -> Text:
    from rich.text import Text

    return Text(clean(status), style=COLOURS.get(status.partition(" ")[0], ""))


def result(value: Any) -> None:
    """A task's result on stdout: text as it is, anything else as JSON."""
    if value is None:
        return
    if not isinstance(value, str):
        emit(value)
        return
    text = clean(value) if sys.stdout.isatty() else value
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, wrap: Sequence[str] = ()) -> None:
    """A table on stdout, nothing for no rows. Only the columns in ``wrap`` give way when the terminal is too narrow."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [*rows]
    if not rows:
        return
    made = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    cells = [[cell if isinstance(cell, Text) else Text(" ".join(clean(cell).split())) for cell in row] for row in rows]
    widths = [max(len(column), *(row[n].cell_len for row in cells)) for n, column in enumerate(columns)]
    yielding = {n for n, column in enumerate(columns) if column in wrap}
    to = console()
    if to.is_terminal:
        widths = fitting(widths, yielding, to.width - len(columns) * BETWEEN)
    for column, width in zip(columns, widths, strict=True):
        made.add_column(column.upper(), no_wrap=True, overflow="ellipsis", min_width=width, max_width=width)
    for row in cells:
        made.add_row(*row)
    put(made)


def fitting(widths: Sequence[int], yielding: AbstractSet[int], room: int) -> list[int]:
    """The widths of columns in ``room`` cells: those in ``yielding`` share what the others leave, a narrow one first."""
    found = list(widths)
    left = room - sum(width for n, width in enumerate(widths) if n not in yielding)
    for done, n in enumerate(sorted(yielding, key=lambda n: widths[n])):
        found[n] = max(NARROWEST, min(widths[n], left // (len(yielding) - done)))
        left -= found[n]
    return found


def put(what: RenderableType) -> None:
    """On stdout; a pipe gets no spaces at the ends of lines."""
    to = console()
    if to.is_terminal:
        to.print(what)
        return
    with to.capture() as captured:
        to.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def shown(fields: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line; what is empty is left out."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True, style="bright_black")
    made.add_column(overflow="fold")
    for name, value in fields:
        if value is None or value in ("", [], {}):
            continue
        if isinstance(value, dict):
            value = "  ".join(f"{k}={v}" for k, v in value.items())  # noqa: PLW2901
        elif isinstance(value, list):
            value = "  ".join(map(str, value))  # noqa: PLW2901
        made.add_row(name, value if isinstance(value, Text) else Text(clean(value).rstrip("\n")))
    put(made)


def short(identity: str, all_of: Iterable[str] = ()) -> str:
    """The beginning of an id that tells it from the others; the whole id in a pipe."""
    if not sys.stdout.isatty():
        return identity
    others = [other for other in all_of if other != identity]
    for length in range(SHORT_ID, len(identity)):
        if not any(other.startswith(identity[:length]) for other in others):
            return identity[:length]
    return identity


def seconds(value: float) -> str:
    """``30 ms``, ``4.2 s``, ``12 s``, ``3 min``, ``2 h``, ``5 d``."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    for limit, size_s, unit in ((100, 1, "s"), (6000, 60, "min"), (48 * 3600, 3600, "h")):
        if value < limit:
            return f"{value / size_s:.0f} {unit}"
    return f"{value / 86400:.0f} d"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    if moment is None:
        return ""
    passed = ((now or datetime.now(UTC)) - moment).total_seconds()
    return f"{seconds(max(passed, 0))} ago" if passed > -1 else f"in {seconds(-passed)}"


def lasting(began: datetime | None) -> str:
    """Until now."""
    return "" if began is None else seconds(max(0, (datetime.now(UTC) - began).total_seconds()))


def took(began: datetime | None, ended: datetime | None) -> str:
    return "" if began is None or ended is None else seconds((ended - began).total_seconds())


def at(moment: datetime | None) -> str:
    """A moment in the zone of whoever reads it."""
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def compact(value: Any) -> str:
    """JSON in one line; nothing for nothing."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def brief(value: Any) -> str:
    """A result for a table: text as it is, anything else as JSON."""
    return value.rstrip("\n") if isinstance(value, str) else compact(value)


def more(offset: int, count: int, total: int, noun: str) -> None:
    """Says what a page of a list does not show."""
    if total == 0:
        note(f"no {noun}s")
    elif offset + count < total:
        note(f"{offset + 1}-{offset + count} of {total} {noun}s; --offset {offset + count} goes on")


def size(count: float) -> str:
    """Bytes in the unit that suits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
