"""A start of the old protocol, as a start of ours."""

from __future__ import annotations

import json

from proplet.work.starts import checked
from swashplate import logging
from swashplate.errors import InvalidRequestError
from swashplate.messages import MonitoringProfile, Start
from swashplate.messages.legacy import LegacyStart

log = logging.get("legacy")

NO_LIMIT_S = 365 * 86400.0
"""The old protocol knows no deadline."""


def ours(start: LegacyStart, proplet_id: str, *, digest: str, size: int) -> Start:
    """``digest`` and ``size`` in bytes are its binary's. Raises ``InvalidRequestError``."""
    return checked(
        Start(
            id=start.id,
            attempt=1,
            proplet_id=proplet_id,
            name=start.name,
            kind="federated" if start.round_id else "standard",
            image_url=start.image_url,
            digest=digest,
            size=size,
            inputs=start.inputs,
            cli_args=start.cli_args,
            env=start.env,
            timeout_s=None if start.latent or start.daemon else NO_LIMIT_S,
            daemon=start.daemon,
            latent=start.latent,
            parents=start.parent_results,
            monitoring_profile=_profile(start),
        )
    )


def _profile(start: LegacyStart) -> MonitoringProfile | None:
    """None for one that cannot be understood: a task runs without it too."""
    known = start.monitoring_profile
    if not known:
        return None
    try:
        return MonitoringProfile.decode(
            json.dumps({**known, "interval": int(known.get("interval", 10) * 1e9)}).encode()
        )
    except (InvalidRequestError, TypeError, ValueError, OverflowError) as error:
        log.warning("monitoring profile ignored", task_id=start.id, error=str(error))
        return None
