"""How long the runs of each binary take."""

from __future__ import annotations

from collections import OrderedDict

SHORT_S = 0.25
"""From the offer to the end, the wait for a slot included."""
SMOOTHING = 0.2
MOST = 1024
"""Binaries that are remembered."""


class Paces:
    def __init__(self) -> None:
        self._seconds: OrderedDict[str, float] = OrderedDict()

    def took(self, digest: str, seconds: float) -> None:
        known = self._seconds.pop(digest, None)
        self._seconds[digest] = seconds if known is None else smoothed(known, seconds)
        if len(self._seconds) > MOST:
            self._seconds.popitem(last=False)

    def short(self, digest: str | None) -> bool:
        """Will the next one probably end quickly? Nobody knows of a binary that has not run."""
        return self._seconds.get(digest or "", SHORT_S) < SHORT_S


def smoothed(known: float, took: float) -> float:
    """A long run counts at once, short ones after a while: what was promised too much is waited for by others."""
    return max(took, known + SMOOTHING * (took - known))
