"""A connection that does not stand: when to try again, why, and what is said about it: each thing once, not at every try."""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass

from swashplate import logging

log = logging.get("bus")

FIRST_S, MOST_S = 0.1, 5.0
STEADY_S = 2.0
"""A connection that ended sooner did not work."""
SHORT_ONES = 2
"""So many in a row mean that the broker drops us for what we do."""

_CREDENTIALS = {"Bad user name or password", "Not authorized"}


class Backoff:
    """Seconds until the next try: doubling, and a quarter more or less, so that a fleet does not come back in step."""

    def __init__(self) -> None:
        self._next = FIRST_S

    def failed(self) -> float:
        delay, self._next = self._next, min(self._next * 2, MOST_S)
        return delay * random.uniform(0.75, 1.25)  # noqa: S311  # no secret

    def worked(self) -> None:
        self._next = FIRST_S


@dataclass(frozen=True, slots=True)
class LinkHints:
    """What to do about each kind of trouble, naming the settings."""

    credentials: str = "check the client id and key"
    address: str = "is it running, and is this its address?"
    certificates: str = "check the certificates"
    topics: str = "its access list may not allow a topic"


class Link:
    """``trouble`` is the sentence that says why the connection does not stand; None when it does."""

    def __init__(self, where: str, *, tls: bool, hints: LinkHints) -> None:
        self._where = where
        self._tls = tls
        self.hints = hints
        self._said: set[str] = set()
        self._short = 0
        self._joined_before = False
        self.trouble: str | None = f"not connected to the MQTT broker at {where} yet"

    @property
    def dropping(self) -> bool:
        """Does the broker end one connection after the other, soon after it took it?"""
        return self._short >= SHORT_ONES

    def joined(self) -> None:
        """The broker has us and every subscription. Said at once, unless it keeps dropping us: then ``steady`` says it."""
        if not self.dropping:
            self._stands()

    def steady(self) -> None:
        """The connection has held for ``STEADY_S`` seconds."""
        if self.dropping:
            self._stands()
        self._short = 0

    def _stands(self) -> None:
        self.trouble = None
        self._said.clear()
        log.info(
            "reconnected to MQTT broker" if self._joined_before else "connected to MQTT broker", address=self._where
        )
        self._joined_before = True

    def refused(self, reason: str) -> None:
        if reason in _CREDENTIALS:
            self._say(f"the MQTT broker at {self._where} refuses the credentials", reason, self.hints.credentials)
        else:
            self._say(f"the MQTT broker at {self._where} refuses the connection", reason, None)

    def unreachable(self, error: BaseException | None) -> None:
        reason = str(error or "no answer")
        if isinstance(error, ssl.SSLError) or (self._tls and isinstance(error, ConnectionResetError)):
            self._say(f"cannot speak TLS with the MQTT broker at {self._where}", reason, self.hints.certificates)
        else:
            self._say(f"the MQTT broker cannot be reached at {self._where}", reason, self.hints.address)

    def unanswered(self, reason: str) -> None:
        """It took the connection and ended it without an answer."""
        hint = self.hints.certificates if self._tls else "if it speaks TLS there, the address begins with ssl://"
        self._say(f"the MQTT broker at {self._where} ends the connection without an answer", reason, hint)

    def lost(self, reason: str, *, after_s: float, doing: list[str]) -> None:
        """The broker had accepted us. ``doing``: what it had been asked and had not answered."""
        self._short = self._short + 1 if after_s < STEADY_S else 0
        if self.dropping:
            sentence = f"the MQTT broker at {self._where} takes the connection and drops it again"
            self._say(sentence, reason, self.hints.topics, unanswered=doing)
        else:
            self.trouble = f"lost the MQTT broker at {self._where}"
            log.warning("lost the MQTT broker", address=self._where, reason=reason)

    def _say(self, sentence: str, reason: str, hint: str | None, **more: object) -> None:
        self.trouble = f"{sentence}: {reason}"
        if self.trouble not in self._said:
            self._said.add(self.trouble)
            log.error(sentence, reason=reason, hint=hint, **more)
