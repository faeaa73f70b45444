"""What the four ports share: pages of records, and the times that records bear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from provision.identity.bodies import shown
from provision.identity.records import Channel, Client, Domain
from swashplate.errors import InvalidRequestError
from swashplate.http import answer, query_int

MOST_PER_PAGE = 100
"""SuperMQ's limit, so that who can list there can list here."""

PAGE_QUERY = {
    "name": "only records whose name contains this",
    "status": "enabled (when left out), disabled or all",
    "offset": "how many to leave out",
    "limit": f"how many at most, up to {MOST_PER_PAGE}; 10 when left out",
}


def page(request: web.Request, what: str, records: Iterable[Domain | Channel | Client]) -> web.Response:
    """One page in order of creation."""
    offset = query_int(request, "offset", 0)
    limit = query_int(request, "limit", 10, low=1, high=MOST_PER_PAGE)
    name = request.query.get("name", "").lower()
    status = request.query.get("status", "enabled")
    if status not in {"enabled", "disabled", "all"}:
        raise InvalidRequestError(f"query parameter status must be enabled, disabled or all, got {status!r}")
    found = [each for each in records if name in each.name.lower() and status in {each.status, "all"}]
    listed: list[dict[str, Any]] = [shown(each) for each in found[offset : offset + limit]]
    return answer({"total": len(found), "offset": offset, "limit": limit, what: listed})
