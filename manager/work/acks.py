"""What proplets are told when the manager has stored what they said: once it has, and together."""

from __future__ import annotations

import asyncio

from manager.state.ledger import Ledger
from swashplate import logging
from swashplate.bus import Bus, BusError
from swashplate.messages import Ack
from swashplate.topics import Topics

log = logging.get("acks")


class Acks:
    def __init__(self, bus: Bus, names: Topics, ledger: Ledger) -> None:
        self._bus = bus
        self._topics = names
        self._ledger = ledger
        self._pending: dict[str, list[str]] = {}

    def acknowledge(self, proplet_id: str, message_id: str) -> None:
        """When everything put so far is durable. What is acknowledged together goes out together."""
        self._ledger.then(lambda: self._soon(proplet_id, message_id))

    def _soon(self, proplet_id: str, message_id: str) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._send_all)
        self._pending.setdefault(proplet_id, []).append(message_id)

    def _send_all(self) -> None:
        pending, self._pending = self._pending, {}
        for proplet_id, ids in pending.items():
            # QoS 0: when it is lost, the proplet sends again and is acknowledged again.
            try:
                self._bus.post(self._topics.to_proplet(proplet_id, "ack"), Ack(ids=ids).encode(), qos=0)
            except BusError as error:
                log.debug("not acknowledged", proplet_id=proplet_id, error=error.sentence)
