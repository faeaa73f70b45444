"""How a registry asks who we are, and what we may show to whom."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

_SCHEME = re.compile(r"\s*([A-Za-z]+)\s+")
_PARAMETER = re.compile(r'\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')


@dataclass(frozen=True)
class Challenge:
    """One ``WWW-Authenticate`` header (RFC 9110, section 11.6.1)."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge | None:
    """``None`` for a scheme other than Basic and Bearer."""
    found = _SCHEME.match(header + " ")
    if found is None or found[1].lower() not in {"basic", "bearer"}:
        return None
    values: dict[str, str] = {}
    position = found.end()
    while parameter := _PARAMETER.match(header, position):
        name, quoted, plain = parameter.groups()
        values[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        position = parameter.end()
    return Challenge(found[1].lower(), values.get("realm", ""), values.get("service", ""), values.get("scope", ""))


def choose(headers: Iterable[str]) -> Challenge | None:
    """Bearer before Basic: a token says less about us than the password."""
    challenges = [challenge for header in headers if (challenge := parse_challenge(header))]
    return next((c for c in challenges if c.scheme == "bearer"), challenges[0] if challenges else None)


@dataclass(frozen=True, repr=False)
class Credentials:
    """What is shown to one registry (and to the token service that it names), and to no other."""

    registry: str = ""
    """``host[:port]``; empty: there are none."""
    username: str = ""
    password: str = ""
    token: str = ""

    def basic(self) -> str | None:
        if not self.username:
            return None
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()
