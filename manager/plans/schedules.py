"""When a scheduled task runs: five-field cron expressions in a time zone, as Debian's cron reads them.

The fields are minute, hour, day of the month, month, day of the week: ``*``, numbers, names (``jan``, ``MON``), ranges,
steps and lists; ``?`` is ``*``; 7 is Sunday too; ``L`` is the month's last day, ``5L`` its last Friday and ``1#2`` its
second Monday. When both day fields are restricted (neither begins with ``*``), a day that matches either will do.

Where the clock is put forward or back, an expression whose minute or hour begins with ``*`` goes by the clock on the wall:
nothing runs in the hour that is left out, and the repeated hour counts twice. Any other runs once a day: a time that is
left out runs at the moment at which the clock jumps, a repeated one the first time only.
"""

from __future__ import annotations

import difflib
import functools
import zoneinfo
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from cronsim import CronSim, CronSimError

from swashplate.errors import InvalidRequestError

LATE_S = 60.0
"""A firing that is late by less has not been missed: it is still its minute, or the manager was merely restarted."""

FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_FORM = "give five fields: minute, hour, day of the month, month, day of the week; 30 2 * * MON-FRI is half past two on working days"
_DAY_S = 86400.0


class Due(StrEnum):
    """What is done about a schedule now."""

    WAIT = "wait"
    RUN = "run"
    SKIP = "skip"


def due(next_run: float, now: float, policy: Literal["skip", "run_once"]) -> Due:
    """Both times in epoch seconds. One that was missed, however many times, runs once or not at all, as ``policy`` says."""
    if now < next_run:
        return Due.WAIT
    if now - next_run < LATE_S or policy == "run_once":
        return Due.RUN
    return Due.SKIP


def next_run(expression: str, zone: str, after: float) -> float:
    """The first firing later than ``after``, both in epoch seconds.

    Raises ``InvalidRequestError`` for a wrong expression, an unknown zone, and when nothing fires within 50 years.
    """
    where = zone_of(zone)
    fields = _fields(expression)
    wall_clock = fields[0].startswith("*") or fields[1].startswith("*")
    try:
        return _next_on_the_wall(fields, where, after) if wall_clock else _next_once_a_day(fields, where, after)
    except (ValueError, OverflowError):
        raise _never(expression) from None


@functools.cache
def _zones() -> frozenset[str]:
    """Those of the IANA database; what this machine has beside them means something else on another."""
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """Raises ``InvalidRequestError`` for what is not in the IANA database."""
    if name in _zones():
        return zoneinfo.ZoneInfo(name)
    by_small = {known.lower(): known for known in _zones()}
    near = difflib.get_close_matches(name.lower()[:64], by_small, n=1)
    hint = (
        f"did you mean {by_small[near[0]]}?"
        if near
        else "give a name of the IANA database, such as Europe/Berlin or UTC"
    )
    raise InvalidRequestError(f"field timezone: {name!r} is not a time zone", code="invalid_timezone", hint=hint)


def _fields(expression: str) -> tuple[str, ...]:
    """The five fields, in the notation of the library that evaluates them."""
    fields = tuple(expression.upper().split())
    if len(fields) != len(FIELDS):
        raise _wrong(f"field schedule: {expression!r} has {len(fields)} fields instead of five")
    for position in (2, 4):
        if fields[position] == "?":
            fields = (*fields[:position], "*", *fields[position + 1 :])
    for position, (name, field) in enumerate(zip(FIELDS, fields, strict=True)):
        alone = " ".join(field if i == position else "*" for i in range(len(fields)))
        try:
            CronSim(alone, datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError:
            raise _wrong(f"field schedule: {name} {field!r} of {expression!r} is not valid") from None
    return fields


def _wrong(sentence: str) -> InvalidRequestError:
    return InvalidRequestError(sentence, code="invalid_schedule", hint=_FORM)


def _never(expression: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"field schedule: {expression!r} never fires",
        code="invalid_schedule",
        hint="no day in the next 50 years matches its day of the month, month and day of the week together",
    )


def _first_match(fields: tuple[str, ...], after: datetime) -> datetime:
    """The first time later than ``after`` on a clock that is never changed. Raises ``ValueError`` when there is none."""
    try:
        found = next(CronSim(" ".join(fields), after), None)
    except CronSimError:  # each field is valid, so it is the day, which no month of those has
        found = None
    if found is None:
        raise ValueError(fields)
    return found


def _at(zone: zoneinfo.ZoneInfo, when: float) -> tuple[datetime, timedelta]:
    """What the wall shows then, without the zone, and how far that is ahead of UTC."""
    local = datetime.fromtimestamp(when, zone)
    return local.replace(tzinfo=None), local.utcoffset() or timedelta()


def _instant(local: datetime, offset: timedelta) -> float:
    return (local - offset).replace(tzinfo=UTC).timestamp()


def _next_on_the_wall(fields: tuple[str, ...], zone: zoneinfo.ZoneInfo, after: float) -> float:
    """From one change of the clock to the next, the first time that the wall shows a match."""
    while True:
        local, offset = _at(zone, after)
        found = _instant(_first_match(fields, local), offset)
        change = _next_change(zone, after, found)
        if change is None:
            return found
        local, offset = _at(zone, change)
        if _first_match(fields, local - timedelta(seconds=1)) == local:
            return change
        after = change


def _next_change(zone: zoneinfo.ZoneInfo, after: float, until: float) -> float | None:
    """The second of the first change of the clock later than ``after``, up to and with ``until``."""
    offset = _at(zone, after)[1]
    low = after
    while low < until:
        high = min(low + _DAY_S, until)
        if _at(zone, high)[1] != offset:
            first, last = int(low), int(high)
            while last - first > 1:
                middle = (first + last) // 2
                if _at(zone, middle)[1] == offset:
                    first = middle
                else:
                    last = middle
            return float(last)
        low = high
    return None


def _next_once_a_day(fields: tuple[str, ...], zone: zoneinfo.ZoneInfo, after: float) -> float:
    local = _at(zone, after)[0]
    while True:
        local = _first_match(fields, local)
        found = _instant(local, local.replace(tzinfo=zone).utcoffset() or timedelta())
        if _at(zone, found)[0] != local:
            found = _next_change(zone, found - _DAY_S, found) or found
        if found > after:
            return found
