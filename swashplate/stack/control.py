"""The way into a running stack: requests over a Unix socket in its state folder, which only its owner may use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from swashplate.errors import BY_STATUS, NotFoundError, SwashplateError, UnavailableError, from_validation

SOCKET = "control.sock"
CONNECT_WITHIN_S = 5.0

Say = Callable[[str], None]


class Request(BaseModel):
    """What is asked of a running stack; no service named means every one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["stop", "start", "restart", "apply", "states"]
    services: list[str] = []
    options: dict[str, Any] = {}
    """For ``apply``: the options of ``up`` that its user gave."""
    shell: dict[str, str] = {}
    """For ``apply``: the settings in its user's environment, which are not taken over."""


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The socket's path in at most the 107 bytes that the kernel takes, however deep the folder lies."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)


@asynccontextmanager
async def serving(folder: Path, handle: Callable[[Request, Say], Awaitable[dict[str, Any]]]) -> AsyncIterator[None]:
    """Answer requests until the context ends. The caller holds the folder, so a socket found there is a dead one's."""
    (folder / SOCKET).unlink(missing_ok=True)
    conversations: set[asyncio.Task[Any]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)

        def tell(message: dict[str, Any]) -> None:
            if not writer.is_closing():  # who asked may be gone; what was begun is finished all the same
                writer.write(json.dumps(message).encode() + b"\n")

        try:
            request = Request.model_validate_json(await reader.readline())
            tell({"done": await handle(request, lambda text: tell({"say": text}))})
        except ValidationError as error:
            tell(from_validation(error, "request").as_json())
        except ValueError:  # a line without an end
            tell({"error": "the request is too long", "code": "too_large"})
        except SwashplateError as error:
            tell({**error.as_json(), "status": error.status})
        finally:
            conversations.discard(task)
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        with _short(folder) as path:
            listener.bind(path)
    finally:
        os.umask(before)
    server = await asyncio.start_unix_server(converse, sock=listener)
    try:
        yield
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        (folder / SOCKET).unlink(missing_ok=True)


def ask(folder: Path, request: Request, say: Say) -> dict[str, Any]:
    """The answer of the stack whose state folder this is; ``say`` gets each sentence about its progress.

    Raises ``NotFoundError`` when no stack runs there, and what the stack raised.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_WITHIN_S)
        try:
            with _short(folder) as path:
                connection.connect(path)
        except OSError as error:
            raise NotFoundError(
                f"no stack is running in {folder}", code="not_running", hint="start one with: swashplate up"
            ) from error
        connection.settimeout(None)  # a stack that ends closes it
        with contextlib.suppress(OSError):
            connection.sendall(request.model_dump_json().encode() + b"\n")
            for line in connection.makefile("rb"):
                message = json.loads(line)
                if "say" in message:
                    say(message["say"])
                elif "error" in message:
                    kind = BY_STATUS.get(message.get("status", 0), SwashplateError)
                    raise kind(message["error"], code=message["code"], hint=message.get("hint"))
                else:
                    done: dict[str, Any] = message["done"]
                    return done
    raise UnavailableError("the stack ended before it answered", code="not_running")
