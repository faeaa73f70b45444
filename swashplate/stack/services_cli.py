"""``swashplate stop``, ``start``, ``restart`` and ``logs``: the services of a running stack."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from swashplate.stack.cli import StateDir

Services = Annotated[list[str], typer.Argument(help="Names as `swashplate status` or compose.yaml has them.")]


def _change(do: str, services: list[str], state_dir: Path) -> None:
    from swashplate.stack import control
    from swashplate.stack.description import described

    described(state_dir)
    control.ask(state_dir, control.Request.model_validate({"do": do, "services": services}), print)


def stop(services: Services, state_dir: StateDir = Path(".swashplate")) -> None:
    """Stop services of the running stack; they stay down until they are started."""
    _change("stop", services, state_dir)


def start(services: Services, state_dir: StateDir = Path(".swashplate")) -> None:
    """Start services that were stopped, and wait until they are ready."""
    _change("start", services, state_dir)


def restart(services: Services, state_dir: StateDir = Path(".swashplate")) -> None:
    """Stop and start services with the settings they have; `swashplate up -d` takes over changed ones."""
    _change("restart", services, state_dir)


def logs(
    services: Annotated[list[str] | None, typer.Argument(help="Only these; every one when none is named.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the lines to come.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines of each service.")] = None,
    state_dir: StateDir = Path(".swashplate"),
) -> None:
    """Print the log lines of services, oldest first; of several, each behind the name of its service.

    The files are read as they are, so this works when nothing runs, too.
    """
    from swashplate.errors import NotFoundError
    from swashplate.stack import log_files
    from swashplate.stack.services import chosen

    known = log_files.files(state_dir / "logs")
    if not known:
        raise NotFoundError(
            f"there are no logs in {state_dir}", code="no_logs", hint="start a stack with: swashplate up"
        )
    named = chosen(services or [], list(known))
    width = max(map(len, named))

    def choose() -> dict[str, Path]:
        now = log_files.files(state_dir / "logs")
        return {name: now[name] for name in (named if services else now) if name in now}

    def write(service: str, line: str) -> None:
        print(line if len(named) == 1 else f"{service:{width}} | {line}")

    try:
        if follow:
            log_files.follow(choose, tail, write)
        else:
            texts = {name: log_files.Follower(path).history(tail) for name, path in choose().items()}
            for service, line in log_files.merged(texts):
                write(service, line)
        sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head` has enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
