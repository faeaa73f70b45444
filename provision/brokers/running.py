"""A broker that may be running: its files written anew, read again by it, and noticed when it does not take them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.brokers.common import Kind, Place, User, narrowed
from provision.brokers.files import config_file, write_broker_files
from swashplate.errors import UnavailableError
from swashplate.stack.log_files import Follower

WITHIN_S = 10.0
"""A broker on a busy machine takes its time; one that refuses says so at once."""


@dataclass(frozen=True)
class _Words:
    taken: str
    refused: str


_WORDS = {
    Kind.EMBEDDED: _Words("Reloaded server configuration", "Failed to reload server configuration"),
    Kind.MOSQUITTO: _Words("Reloading config.", "Error: "),
}


@dataclass(frozen=True)
class Broker:
    """``log_file``: where the broker's log goes; without one nobody sees whether it took what it was given."""

    kind: Kind
    place: Place
    log_file: Path | None = None

    async def give(self, before: Sequence[User], users: Sequence[User]) -> bool:
        """Make it know ``users`` instead of ``before``; return whether its files changed.

        Raises ``UnavailableError`` when the broker refuses its files, which it then goes on without, and
        ``ConfigurationError`` when they cannot be written. A broker that does not run reads them when it starts.
        """
        lost = narrowed(before, users)
        if not lost or self.kind is not Kind.EMBEDDED:
            return await self._tell(users)
        try:
            # nats-server leaves live subscriptions alone when a user may read less; who is no user is disconnected.
            await self._tell([user for user in users if user.id not in lost])
        finally:  # whatever came between: who keeps a key is not left out of the files
            changed = await self._tell(users)
        return changed

    async def _tell(self, users: Sequence[User]) -> bool:
        changed = await asyncio.to_thread(write_broker_files, self.kind, users, self.place)
        if changed:
            await self.reload()
        return changed

    async def reload(self) -> None:
        words = _WORDS[self.kind]
        pid = self._running()
        if pid is None:
            return
        log = None if self.log_file is None else Follower(self.log_file)
        if log is not None:
            log.skip()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)
        if log is None:
            return
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            said = list(log.fresh())
            complaint = next((line for line in said if words.refused in line), None)
            if complaint is not None:
                raise UnavailableError(f"the broker refuses its new access lists: {complaint}")
            if any(words.taken in line for line in said) or self._running() != pid:  # a new one reads them at its start
                return
            await asyncio.sleep(0.002)
        raise UnavailableError("the broker did not read its new access lists", hint=f"its log: {self.log_file}")

    def _running(self) -> int | None:
        """The broker's pid. What a dead one left in the file may be another's by now, so its command line is looked at."""
        if self.place.pid_file is None:
            return None
        try:
            pid = int(self.place.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.place.folder / config_file(self.kind)) in command else None
