"""Cordoned proplets get nothing new. Drained ones are rid of what would stay for ever, too: it goes on elsewhere, and what
has an end has it there.
"""

from __future__ import annotations

from collections.abc import Callable

from manager.fleet.proplet import Proplet
from manager.fleet.proplets import Proplets
from manager.latent.deployments import Deployments
from manager.state.ledger import Ledger
from manager.state.records import Attempt
from manager.work.attempts import Attempts
from manager.work.dialects import Dialect
from manager.work.load import Load
from swashplate import logging
from swashplate.errors import ConflictError
from swashplate.messages import Alive
from swashplate.words import counted

log = logging.get("drains")


class Drains:
    def __init__(
        self,
        ledger: Ledger,
        proplets: Proplets,
        load: Load,
        attempts: Attempts,
        deployments: Deployments,
        dialect_of: Callable[[str], Dialect],
    ) -> None:
        self._ledger = ledger
        self._proplets = proplets
        self._load = load
        self._attempts = attempts
        self._deployments = deployments
        self._dialect_of = dialect_of

    async def open(self) -> None:
        self._proplets.on_report(self._reported)

    def recover(self) -> None:
        for proplet in self._proplets.list():
            self.go_on(proplet.id)

    async def change(self, proplet_id: str, *, cordoned: bool, draining: bool) -> Proplet:
        """Durable when this returns. Raises ``NotFoundError``."""
        self._ledger.check()
        proplet = await self._proplets.cordon(proplet_id, cordoned=cordoned, draining=draining)
        self.go_on(proplet_id)
        await self._ledger.durable()
        return proplet

    def go_on(self, proplet_id: str) -> None:
        """Move what can be moved from a draining proplet now."""
        proplet = self._proplets.known(proplet_id)
        if proplet is None or not proplet.draining:
            return
        for key in self._load.held_by(proplet_id):
            attempt = self._ledger.attempt(key)
            if attempt is not None and self._movable(attempt):
                log.info("moved from a draining proplet", task_id=key.task_id, proplet_id=proplet_id)
                self._attempts.move(attempt)

    def _movable(self, attempt: Attempt) -> bool:
        task = self._ledger.task(attempt.task_id)
        if task is None or not task.standing or task.stopping or attempt.stop_at is not None:
            return False
        # Those that are being called finish first; new calls go elsewhere.
        assert attempt.proplet_id is not None
        return not self._deployments.running(attempt.key) and self._dialect_of(attempt.proplet_id).stops_alone(attempt)

    async def _reported(self, proplet_id: str, _said: Alive) -> None:
        self.go_on(proplet_id)

    async def delete(self, proplet_id: str) -> None:
        """Forget a proplet that holds nothing and is not to be given anything. Raises ``NotFoundError``, ``ConflictError``."""
        proplet = self._proplets.get(proplet_id)
        self._ledger.check()
        if count := self._load.count(proplet_id):
            raise ConflictError(
                f"conflict: proplet {proplet_id} has {counted(count, 'active task')}",
                code="proplet_busy",
                hint=f"POST /proplets/{proplet_id}/drain, or wait until it has none",
            )
        if self._proplets.alive(proplet) and not proplet.cordoned:
            raise ConflictError(
                f"conflict: proplet {proplet_id} is alive and may be given tasks at any time",
                code="proplet_alive",
                hint=f"stop it, or POST /proplets/{proplet_id}/cordon first",
            )
        await self._proplets.delete(proplet_id)
        self._load.forget(proplet_id)
        log.info("proplet deleted", proplet_id=proplet_id)
