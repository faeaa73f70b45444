"""Full ids from what people type: a name, or a beginning that only one has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from swashplate.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from swashplate.client import Client

SEARCHED = 1000
"""How many of the newest are searched."""
NAMED = 5
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def chosen(given: str, known: list[tuple[str, str]], noun: str, beyond: int = 0) -> str:
    """The id among ``known`` (ids and names) that ``given`` means: itself, its name, or its beginning.

    A whole name goes before the beginning of an id: names such as ``add`` are hexadecimal, too. Raises
    ``InvalidRequestError`` naming the candidates when it could mean several; ``beyond`` are as many more of that name.
    """
    if any(identity == given for identity, _ in known):
        return given
    found = [pair for pair in known if pair[1] == given] or [pair for pair in known if pair[0].startswith(given)]
    if len(found) == 1:
        return found[0][0]
    if not found:
        many = len(known) >= SEARCHED
        raise NotFoundError(
            f"there is no {noun} whose id begins with {given!r} and none of that name"
            + (f", among the newest {SEARCHED}" if many else ""),
            code=f"{noun}_not_found",
            hint=f"swashplate {noun} list shows them" + ("; of an older one type the whole id" if many else ""),
        )
    candidates = ", ".join(f"{identity} ({name})" if name else identity for identity, name in found[:NAMED])
    count = len(found) + beyond
    more = f" and {count - NAMED} more" if count > NAMED else ""
    hint = "type the id of one" if found[0][1] == given else "type more of the id"
    raise InvalidRequestError(f"{given!r} could be {count} {noun}s: {candidates}{more}", code="ambiguous_id", hint=hint)


async def _full(given: str, every: AsyncIterator[N], noun: str) -> str:
    if not given:
        raise InvalidRequestError(f"the id of the {noun} is empty")
    if _UUID.fullmatch(given):
        return given
    known: list[tuple[str, str]] = []
    async for each in every:
        known.append((each.id, each.name))
        if len(known) >= SEARCHED:
            break
    return chosen(given, known, noun)


async def task(client: Client, given: str) -> str:
    if given and not _UUID.fullmatch(given):
        # The manager finds a name among all tasks, however many are newer.
        named = await client.tasks.list(name=given, limit=NAMED + 1)
        if named.items:
            return chosen(given, [(each.id, each.name) for each in named.items], "task", named.total - len(named.items))
    return await _full(given, client.tasks.every(), "task")


async def job(client: Client, given: str) -> str:
    return await _full(given, client.jobs.every(), "job")


async def workflow(client: Client, given: str) -> str:
    return await _full(given, client.workflows.every(), "workflow")


async def proplet(client: Client, given: str) -> str:
    return await _full(given, client.proplets.every(), "proplet")
