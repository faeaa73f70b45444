"""The arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swashplate.commands import completing

_HOW = "its id, a beginning of it that no other has, or its name."

TaskId = Annotated[str, typer.Argument(metavar="TASK", help=f"The task: {_HOW}", autocompletion=completing.task_ids)]
PropletId = Annotated[
    str, typer.Argument(metavar="PROPLET", help=f"The proplet: {_HOW}", autocompletion=completing.proplet_ids)
]
Offset = Annotated[int, typer.Option("--offset", "-o", min=0, help="Leave out the first ones.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most so many.")]
Definition = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML or JSON; - reads standard input. See examples/.", allow_dash=True)
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Follow it until it has ended; exit status 1 when it failed.")]
