"""What the four ports share: pages of records, and the times that records bear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from provision.identity.bodies import shown
from provision.identity.records import Channel, Client, Domain
from swashplate.http import OFFSET, Choice, Text, answer, limit_of

MOST_PER_PAGE = 100
"""SuperMQ's limit, so that who can list there can list here."""

LIMIT = limit_of(MOST_PER_PAGE, default=10)
STATUS = Choice(name="status", text="Which records.", choices=("enabled", "disabled", "all"), default="enabled")
NAME = Text(name="name", text="Only records whose name contains this.")
PAGE = (NAME, STATUS, OFFSET, LIMIT)
DOMAIN = Text(name="domain", text="The domain's id.", place="path")


def page(request: web.Request, what: str, records: Iterable[Domain | Channel | Client]) -> web.Response:
    """One page in order of creation."""
    offset, limit = OFFSET.of(request), LIMIT.of(request)
    name, status = NAME.of(request).lower(), STATUS.of(request)
    found = [each for each in records if name in each.name.lower() and status in {each.status, "all"}]
    listed: list[dict[str, Any]] = [shown(each) for each in found[offset : offset + limit]]
    return answer({"total": len(found), "offset": offset, "limit": limit, what: listed})
