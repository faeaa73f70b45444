"""How values look in the manager's answers."""

from __future__ import annotations

from datetime import UTC, datetime

_NEVER = "0001-01-01T00:00:00Z"


def timestamp(seconds: float | None) -> str:
    """RFC 3339 in UTC; the existing API writes the year 1 for a time that has not come."""
    if seconds is None:
        return _NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
