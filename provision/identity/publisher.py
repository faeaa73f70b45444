"""Tells the broker of each change, and remembers when it did not listen."""

from __future__ import annotations

from provision.brokers import Broker
from provision.identity import access
from provision.identity.records import Records
from swashplate import logging
from swashplate.errors import SwashplateError, UnavailableError

log = logging.get("identity")


class Publisher:
    def __init__(self, broker: Broker, *, legacy: bool) -> None:
        self._broker = broker
        self._legacy = legacy
        self._problem: str | None = None

    async def publish(self, before: Records, after: Records) -> None:
        """The change is stored, whatever becomes of this; what the broker does not take is told by ``check``."""
        users = access.users(after, legacy=self._legacy)
        try:
            if await self._broker.give(access.users(before, legacy=self._legacy), users):
                log.info("access lists written", broker=str(self._broker.kind), users=len(users))
            self._problem = None
        except SwashplateError as error:
            self._problem = error.sentence
            log.error("the broker does not know the change", error=error.sentence, hint=error.hint)

    async def check(self) -> None:
        """A health check."""
        if self._problem is not None:
            raise UnavailableError(self._problem)
