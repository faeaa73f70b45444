"""What follows when proplets deny an attempt: who is not asked again for a while, and when there have been enough of them.
Pure.

Want of a slot passes by itself and counts for nothing here. What a proplet's policy refuses it refuses for good: in this
run it is not asked again. For any other reason a task must not go round for ever.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from manager.state.records import Attempt

BY_POLICY = frozenset({"limit_over_ceiling", "capability_refused", "http_unsupported", "signature_invalid"})
MOST_BY_ONE, MOST = 10, 100
"""So many denials in a row, by one proplet or by whomever, are the end of the task. Whoever denies at once has free slots and
so is asked first: ten that are broken must not be the end of what 1,990 others would do."""
AGAIN_S, AGAIN_MOST_S = 1.0, 30.0


def in_a_row(attempts: Iterable[Attempt], target: str | None) -> list[Attempt]:
    """The denials that this target's attempts met since somebody took one, oldest first."""
    found: list[Attempt] = []
    for attempt in sorted((each for each in attempts if each.target == target), key=lambda each: each.number):
        if attempt.refused:
            found.append(attempt)
        elif attempt.accepted_at is not None:
            found.clear()
    return found


def too_many(attempts: Iterable[Attempt], target: str | None) -> bool:
    found = in_a_row(attempts, target)
    by_one = Counter(attempt.proplet_id for attempt in found)
    return len(found) >= MOST or max(by_one.values(), default=0) >= MOST_BY_ONE


def by_policy(attempts: Iterable[Attempt], target: str | None) -> frozenset[str]:
    """Whose policy refused it."""
    found = in_a_row(attempts, target)
    return frozenset(attempt.proplet_id for attempt in found if attempt.proplet_id and attempt.code in BY_POLICY)


def avoided(attempts: Iterable[Attempt], target: str | None, now: float) -> dict[str, float]:
    """Who is not asked now, and until when: 1 s after his first denial, doubling; for ever when it was by policy."""
    until: dict[str, float] = {}
    count: dict[str, int] = {}
    for attempt in in_a_row(attempts, target):
        assert attempt.proplet_id is not None
        if attempt.code in BY_POLICY:
            until[attempt.proplet_id] = math.inf
            continue
        times = count[attempt.proplet_id] = count.get(attempt.proplet_id, 0) + 1
        wait = min(AGAIN_MOST_S, AGAIN_S * 2.0 ** (times - 1))
        # Not longer than all of it, should the machine's clock have been set back.
        until[attempt.proplet_id] = min(attempt.finished_at or now, now) + wait
    return {proplet_id: end for proplet_id, end in until.items() if end > now}
