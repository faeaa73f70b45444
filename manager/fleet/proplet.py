"""One proplet, as the manager knows it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from swashplate import logging
from swashplate.messages import Capabilities

log = logging.get("proplets")

MISSED_REPORTS = 3
HISTORY = 100
"""How many times of its last reports are kept of each proplet."""
MAX_NAME = 64
"""Characters of a name that are shown; a proplet may say what it likes."""
LEGACY_REPORT_S = 10.0
"""How often a legacy proplet reports unless it is told otherwise, which only its own settings can."""


@dataclass
class Proplet:
    """What is known of one proplet. Times are seconds since the epoch. ``legacy``: it knows the shared topics only."""

    id: str
    namespace: str = "default"
    metadata: dict[str, Any] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)
    legacy: bool = False
    instance: str = ""
    last_seen: float = 0.0
    offline: bool = True
    running: int = 0
    free_slots: int = 0
    cordoned: bool = False
    draining: bool = False
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    @property
    def name(self) -> str:
        return str(self.metadata.get("name") or f"proplet-{self.id[:8]}")[:MAX_NAME]

    def described(self) -> dict[str, Any]:
        """What survives a restart."""
        return {
            "namespace": self.namespace,
            "metadata": self.metadata,
            "capabilities": self.capabilities.model_dump(mode="json"),
            "legacy": self.legacy,
            "cordoned": self.cordoned,
            "draining": self.draining,
        }

    @classmethod
    def remembered(cls, proplet_id: str, described: dict[str, Any], last_seen: float) -> Proplet:
        """As ``described`` said; offline until it reports."""
        try:
            capabilities = Capabilities.model_validate(described["capabilities"])
        except ValidationError as error:  # once believed; it says again what it has as soon as it is there
            log.warning("what a proplet once said of itself is not believed", proplet_id=proplet_id, error=str(error))
            capabilities = Capabilities()
        return cls(
            id=proplet_id,
            namespace=described["namespace"],
            metadata=described["metadata"],
            capabilities=capabilities,
            legacy=described.get("legacy", False),
            cordoned=described.get("cordoned", False),
            draining=described.get("draining", False),
            last_seen=last_seen,
        )


def patience(proplet: Proplet, heartbeat_s: float) -> float:
    """Seconds without a report after which it is not alive any more."""
    return MISSED_REPORTS * (max(heartbeat_s, LEGACY_REPORT_S) if proplet.legacy else heartbeat_s)


def is_alive(proplet: Proplet, now: float, heartbeat_s: float) -> bool:
    return not proplet.offline and now - proplet.last_seen <= patience(proplet, heartbeat_s)
