"""What the proplets of a stack on this machine have logged about one task."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from swashplate.commands import output
from swashplate.errors import NotFoundError
from swashplate.stack import log_files


def line_about(line: str, task_id: str, *, everything: bool) -> str | None:
    """The text of a log line if it is about this task; of all others None. Without ``everything`` the guest's alone."""
    if task_id not in line:
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("task_id") != task_id:
        return None
    if entry.get("stream") == "stderr":
        return str(entry.get("msg", ""))
    return line if everything else None


def show(folder: Path, task_id: str, *, follow: bool, everything: bool) -> None:
    """Raises ``NotFoundError`` when there are no logs of proplets in ``folder``."""

    def proplets() -> Mapping[str, Path]:
        return {name: path for name, path in log_files.files(folder).items() if name.startswith("proplet")}

    known = proplets()
    if not known:
        raise NotFoundError(
            f"there are no logs of proplets in {folder}",
            code="no_logs",
            hint="this reads the logs of a stack on this machine; --state-dir says where it is",
        )

    def write(service: str, line: str) -> None:
        text = line_about(line, task_id, everything=everything)
        if text is not None:
            shown = f"{service} | {text}" if everything else text
            print(output.clean(shown) if sys.stdout.isatty() else shown)

    _print(known, proplets, write, follow=follow)


def _print(
    known: Mapping[str, Path],
    choose: Callable[[], Mapping[str, Path]],
    write: Callable[[str, str], None],
    *,
    follow: bool,
) -> None:
    try:
        if follow:
            log_files.follow(choose, None, write)
        else:
            texts = {name: log_files.Follower(path).history(None) for name, path in known.items()}
            for service, line in log_files.merged(texts):
                write(service, line)
        sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head` has enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
