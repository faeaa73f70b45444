"""What a shell offers for an id: those at the manager, asked for quickly or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from swashplate.client import Client

OFFERED = 50
WITHIN_S = 1.5

Found = list[tuple[str, str]]


def _offer(ctx: typer.Context, incomplete: str, look: Callable[[Client], Awaitable[Found]]) -> Found:
    import asyncio

    from swashplate.client import Client
    from swashplate.commands.connection import target
    from swashplate.errors import SwashplateError

    async def ask() -> Found:
        url, token = target(str(ctx.params.get("manager") or ""))
        async with asyncio.timeout(WITHIN_S), Client(url, token=token, retry_s=0) as client:
            return await look(client)

    try:
        found = asyncio.run(ask())
    except (SwashplateError, OSError, TimeoutError):
        return []  # a shell that completes is no place for an error
    return [(identity, text) for identity, text in found if identity.startswith(incomplete)]


def task_ids(ctx: typer.Context, incomplete: str) -> Found:
    async def look(client: Client) -> Found:
        return [(t.id, f"{t.name} {t.status}") for t in (await client.tasks.list(limit=OFFERED)).items]

    return _offer(ctx, incomplete, look)


def group_ids(ctx: typer.Context, incomplete: str) -> Found:
    """Jobs or workflows: whichever the command is about."""
    jobs = ctx.parent is not None and ctx.parent.info_name == "job"

    async def look(client: Client) -> Found:
        if jobs:
            return [(j.id, f"{j.name} {j.status}") for j in (await client.jobs.list(limit=OFFERED)).items]
        return [(w.id, f"{w.name} {w.status}") for w in (await client.workflows.list(limit=OFFERED)).items]

    return _offer(ctx, incomplete, look)


def proplet_ids(ctx: typer.Context, incomplete: str) -> Found:
    async def look(client: Client) -> Found:
        return [(p.id, p.name) for p in (await client.proplets.list(limit=OFFERED)).items]

    return _offer(ctx, incomplete, look)
