"""Which manager a command speaks to, with which token, and how a command ends that is interrupted meanwhile."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from swashplate.client import Client

T = TypeVar("T")

URL_NAMES = ["SWASHPLATE_MANAGER_URL", "MANAGER_URL"]
STACK_FOLDER = Path(".swashplate")
INTERRUPTED = 130

ManagerUrl = Annotated[
    str,
    typer.Option(
        "--manager",
        "-m",
        envvar=URL_NAMES,
        metavar="URL",
        help="The manager. Without: the one of the stack in ./.swashplate, else http://localhost:7070."
        " Its token comes from MANAGER_HTTP_TOKEN.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]


def target(manager: str) -> tuple[str, str]:
    """URL and token. A stack that runs in ./.swashplate tells both, unless they were given."""
    from swashplate.client.client import DEFAULT_URL
    from swashplate.errors import InvalidRequestError, NotFoundError

    token = os.environ.get("MANAGER_HTTP_TOKEN", "")
    if manager and not manager.startswith(("http://", "https://")):
        raise InvalidRequestError(
            f"{manager!r} is not the URL of a manager",
            hint="such as http://localhost:7070, in --manager or its variable",
        )
    if (manager and token) or not (STACK_FOLDER / "stack.json").exists():
        return manager or DEFAULT_URL, token
    from swashplate.stack.description import described
    from swashplate.stack.environment import read_env

    try:
        stack = described(STACK_FOLDER)
    except NotFoundError:
        return manager or DEFAULT_URL, token
    url = str(stack["urls"]["manager"])
    if manager.rstrip("/") in {"", url}:
        return url, token or read_env(Path(stack["env_file"])).get("MANAGER_HTTP_TOKEN", "")
    return manager, token


def speak(manager: str, work: Callable[[Client], Awaitable[T]], *, interrupted: Callable[[], None] | None = None) -> T:
    """What ``work`` answers. Ctrl-C ends it with status 130, after ``interrupted`` has said what that means."""
    import asyncio

    from swashplate.client import Client

    url, token = target(manager)

    async def connected() -> T:
        async with Client(url, token=token) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except KeyboardInterrupt:
        if interrupted is not None:
            interrupted()
        raise typer.Exit(INTERRUPTED) from None
