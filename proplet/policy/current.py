"""The policy that holds now, while the proplet runs and its operator changes the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proplet.policy.changes import changes
from proplet.policy.file import Loaded, content_of
from proplet.policy.policy import Policy
from swashplate import logging
from swashplate.errors import ConfigurationError

log = logging.get("policy")

LOOK_EVERY_S = 5.0
DIGITS = 12
"""Of a digest, for people."""


class CurrentPolicy:
    """Whoever asks ``now`` when a run begins keeps what it was granted, whatever the file says later.

    ``path`` is the file, None when there is none; ``load`` reads it and raises ``ConfigurationError``, which
    leaves what held before.
    """

    def __init__(self, path: Path | None, load: Callable[[], Loaded]) -> None:
        self._path = path
        self._load = load
        self._held = load()
        self._refused: bytes | None = None
        """What the file held when it was last refused: that is said once."""
        self.on_change: list[Callable[[], None]] = []
        """Each is called when another policy has come to hold."""

    @property
    def now(self) -> Policy:
        return self._held.policy

    def described(self) -> dict[str, str]:
        """For the metadata of the proplet: the name of the file, not where it lies, and the beginning of its sha256."""
        return {} if self._path is None else {"policy": f"{self._path.name} {self._held.digest[:DIGITS]}"}

    async def follow(self, asked: asyncio.Event) -> None:
        """Take over what the file says from now on: every ``LOOK_EVERY_S``, and at once when ``asked`` is set."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._path is None else LOOK_EVERY_S):
                    await asked.wait()
            await self.look(asked=asked.is_set())
            asked.clear()

    async def look(self, *, asked: bool = False) -> None:
        """Once. Who ``asked`` is told in any case what came of it."""
        if self._path is None:
            log.warning("there is no policy file to read again", hint="PROPLET_POLICY names it when the proplet starts")
            return
        try:
            content = await asyncio.to_thread(content_of, self._path)
        except ConfigurationError as error:
            self._refuse(error, str(error).encode(), asked=asked)
            return
        if content == self._held.content:
            if asked or self._refused is not None:
                log.info("the policy file says what holds already", policy=str(self._path), digest=self._held.digest)
            self._refused = None
            return
        if content == self._refused and not asked:
            return
        try:
            found = await asyncio.to_thread(self._load)
        except ConfigurationError as error:
            self._refuse(error, content, asked=asked)
            return
        before, self._held, self._refused = self._held, found, None
        log.info(
            "the policy has changed; what runs keeps what it was granted",
            policy=str(self._path),
            digest=found.digest,
            changed=changes(before.file, found.file),
        )
        for tell in self.on_change:
            tell()

    def _refuse(self, error: ConfigurationError, content: bytes, *, asked: bool) -> None:
        if content != self._refused or asked:
            log.error("the changed policy is refused; the one before it holds", error=error.sentence, hint=error.hint)
        self._refused = content
