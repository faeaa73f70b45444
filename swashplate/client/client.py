"""The manager's API for asyncio programs."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from swashplate.client.answers import Answer, Task
from swashplate.client.groups import Jobs, Workflows
from swashplate.client.http import HttpClient
from swashplate.client.learning import Learning
from swashplate.client.proplets import Proplets
from swashplate.client.tasks import Spec, Tasks, body_of, wasm_bytes
from swashplate.client.transport import Transport

DEFAULT_URL = "http://localhost:7070"
URL_NAMES = ("SWASHPLATE_MANAGER_URL", "MANAGER_URL")


def url_of_environment() -> str:
    return next((os.environ[name] for name in URL_NAMES if os.environ.get(name)), DEFAULT_URL)


class Client:
    """``async with Client() as manager: task = await manager.run("add.wasm", [2, 40], invoke="add")``.

    ``url`` defaults to ``SWASHPLATE_MANAGER_URL``, ``MANAGER_URL``, ``http://localhost:7070``; ``token`` to
    ``MANAGER_HTTP_TOKEN``. ``timeout`` is for one request, in seconds; ``retry_s`` is how long requests
    that may be repeated are repeated while a manager that was there before is not.

    Everything raises ``SwashplateError``: the manager's own, with its code and hint, ``UnreachableError`` when no answer
    came, ``BadAnswerError`` when what answers is no manager.
    """

    inline_bytes = 48 << 20
    """A larger binary does not travel inside the request that creates its task: base64 makes it a third larger, and a body
    has a limit of 100 MiB."""

    def __init__(self, url: str = "", *, token: str | None = None, timeout: float = 30, retry_s: float = 10) -> None:
        self.url = (url or url_of_environment()).rstrip("/")
        shown = os.environ.get("MANAGER_HTTP_TOKEN", "") if token is None else token
        self._http = HttpClient(timeout=timeout, tokens={self.url: shown})
        self._transport = Transport(self._http, self.url, retry_s=retry_s)
        self.tasks = Tasks(self._transport)
        self.jobs = Jobs(self._transport)
        self.workflows = Workflows(self._transport)
        self.proplets = Proplets(self._transport)
        self.learning = Learning(self._transport)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.__aexit__(*exc)

    async def health(self) -> Answer:
        """Raises ``UnavailableError`` saying what the manager lacks."""
        return await self._transport.get(Answer, "/health")

    async def launch(
        self,
        /,
        what: str | Path,
        inputs: Sequence[str | float] = (),
        *,
        invoke: str = "",
        key: str | None = None,
        **fields: Any,
    ) -> Task:
        """Create a task and start it. ``what`` is a .wasm file or an image reference; ``invoke`` an exported function;
        ``fields`` are those of ``TaskCreate``.
        """
        body: dict[str, Any] = {"name": name_for(what), "inputs": [str(each) for each in inputs], **fields}
        if invoke:
            body["cli_args"] = [*(body.get("cli_args") or ()), "--invoke", invoke]
        if is_file(what):
            return await self.create(body, file=Path(what), start=True, key=key)
        return await self.create({**body, "image_url": str(what)}, start=True, key=key)

    async def create(
        self, spec: Spec, *, file: Path | None = None, start: bool = False, key: str | None = None
    ) -> Task:
        """Create a task that runs a .wasm file, in one request unless the file is too large for that."""
        body = body_of(spec)
        if start:
            body["start"] = True
        if file is None:
            return await self.tasks.create(body, key=key)
        content = await asyncio.to_thread(wasm_bytes, file)
        if len(content) <= self.inline_bytes:
            return await self.tasks.create({**body, "file": base64.b64encode(content).decode()}, key=key)
        task = await self.tasks.create({**body, "start": False}, key=key)
        task = await self.tasks.upload(task.id, content)
        if body.get("start"):
            await self.tasks.start(task.id)
            task = await self.tasks.get(task.id)
        return task

    async def run(
        self,
        /,
        what: str | Path,
        inputs: Sequence[str | float] = (),
        *,
        invoke: str = "",
        wait: float | None = None,
        key: str | None = None,
        **fields: Any,
    ) -> Task:
        """``launch``, and the task when it has ended, however it has; raises ``NotEndedError`` after ``wait`` seconds.

        A daemon or latent task does not end by itself: use ``launch``.
        """
        task = await self.launch(what, inputs, invoke=invoke, key=key, **fields)
        return await self.tasks.whole(await self.tasks.wait(task.id, timeout=wait))


def is_file(what: str | Path) -> bool:
    """A file, or an image? What ends in .wasm is meant to be a file even when there is none: an image never does."""
    return isinstance(what, Path) or what.endswith((".wasm", ".wat")) or Path(what).is_file()


def name_for(what: str | Path) -> str:
    """A name for a task that was given none: what it runs, without folders, registry and tag."""
    if is_file(what):
        return Path(what).stem or "task"
    return str(what).partition("@")[0].rpartition("/")[2].partition(":")[0] or "task"
