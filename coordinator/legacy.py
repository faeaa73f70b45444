"""Updates without a token: Propeller's proplets get none, so the manager has to know the sender as one of them."""

from __future__ import annotations

from coordinator.peers import ManagerPeer
from swashplate import logging
from swashplate.errors import ForbiddenError, SwashplateError, UnavailableError
from swashplate.messages import TOKEN_HEADER

log = logging.get("rounds")


class LegacyParticipants:
    def __init__(self, manager: ManagerPeer) -> None:
        self._manager = manager

    async def admit(self, round_id: str, proplet_id: str) -> None:
        """Asked each time: a proplet that has learned to use tokens is not let in without one any more.

        Raises ``ForbiddenError`` with code ``invalid_token`` unless the manager says that the participant is legacy,
        ``UnavailableError`` when the manager cannot be asked.
        """
        try:
            legacy = await self._manager.is_legacy(proplet_id)
        except UnavailableError as error:
            raise UnavailableError(
                f"the update of {proplet_id} has no token, and the manager cannot say now whether it needs one",
                code="manager_unavailable",
            ) from error
        except SwashplateError as error:
            log.warning("the manager does not know a participant", proplet_id=proplet_id, error=error.sentence)
            legacy = False
        if not legacy:
            raise ForbiddenError(
                f"the update of {proplet_id} lacks the token of its task",
                code="invalid_token",
                hint=f"the header {TOKEN_HEADER} must carry the token that came with the task's start",
            )
        log.info("update without a token from a legacy proplet", round_id=round_id, proplet_id=proplet_id)
