"""How a registry asks who we are, and what we may show to whom."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field

from yarl import URL

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


TOKEN_SERVICES = {
    "registry-1.docker.io": "https://auth.docker.io",
    "registry.gitlab.com": "https://gitlab.com",
}
"""Registries whose token service is known to stand at another host."""


def may_see_password(realm: str, registry: str, services: frozenset[str] = frozenset()) -> bool:
    """May the password for ``registry`` (a base URL) be sent to ``realm``, which that registry calls its token service?

    To the registry's own host, and to hosts that somebody named; without TLS only when the registry itself is spoken to
    without it, or when the service was named with http://. A challenge is a header: whoever can bend one (a proxy in
    between, an open redirect) must not be able to choose who gets the password.
    """
    try:
        service, home = URL(realm), URL(registry)
        origin = str(service.origin())
    except ValueError:
        return False
    if origin in services or origin == TOKEN_SERVICES.get(home.host or ""):
        return True
    return service.host == home.host and service.scheme in {"https", home.scheme}


@dataclass(frozen=True, repr=False)
class Credentials:
    """What is shown to one registry (and to the token service that it names), and to no other."""

    registry: str = ""
    """``host[:port]``; empty: there are none."""
    username: str = ""
    password: str = ""
    token: str = ""
    token_services: frozenset[str] = field(default=frozenset())
    """Origins, such as ``https://auth.example.com``, that may have the password besides the registry's own host."""

    def basic(self) -> str | None:
        if not self.username:
            return None
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()
