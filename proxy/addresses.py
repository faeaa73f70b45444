"""At which address the registry of an image reference is spoken to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from swashplate.errors import ConfigurationError
from swashplate.references import Reference, host_and_port, host_problem, is_loopback

LOCAL_REGISTRY = "local-registry"
"""The demo's registry among containers: a name that only their network knows, so nobody could certify it for TLS."""
DOCKER_HUB = {"docker.io", "index.docker.io"}


@dataclass(frozen=True)
class Endpoints:
    """From a registry's name to its base URL. TLS is the rule; what is spoken to without it is said here."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    """Registry name → base URL."""
    plain: frozenset[str] = frozenset()
    """Registry names that speak HTTP without TLS."""

    def url(self, registry: str) -> str:
        """Scheme and authority, without a slash at the end."""
        if registry in self.aliases:
            return self.aliases[registry]
        if registry in DOCKER_HUB:
            return "https://registry-1.docker.io"
        plain = registry in self.plain or is_loopback(registry) or host_and_port(registry)[0] == LOCAL_REGISTRY
        return f"{'http' if plain else 'https'}://{registry}"

    def base(self, reference: Reference) -> str:
        """The URL that ``/manifests/…`` and ``/blobs/…`` of this repository are appended to."""
        repository = reference.repository
        if reference.registry in DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return f"{self.url(reference.registry)}/v2/{repository}"


def endpoints(*, aliases: str = "", plain_http: str = "", registry_url: str = "") -> Endpoints:
    """Out of the settings' texts; raises ``ConfigurationError`` naming the setting."""
    plain = frozenset(_host_of(entry, "PROXY_PLAIN_HTTP")[1] for entry in _entries(plain_http))
    table: dict[str, str] = {}
    if registry_url:
        scheme, host = _host_of(registry_url, "PROXY_REGISTRY_URL")
        if scheme and host not in DOCKER_HUB:
            table[host] = f"{scheme}://{host}"
    known = Endpoints(aliases=dict(table), plain=plain)
    for entry in _entries(aliases):
        name, equals, target = entry.partition("=")
        if not equals or host_problem(name.strip()):
            raise ConfigurationError(
                f"setting PROXY_REGISTRY_ALIASES: {entry!r} is not name=url",
                hint="for example local-registry:5000=http://127.0.0.1:5000",
            )
        scheme, host = _host_of(target.strip(), "PROXY_REGISTRY_ALIASES")
        table[name.strip().lower()] = f"{scheme}://{host}" if scheme else known.url(host)
    return Endpoints(aliases=table, plain=known.plain)


def origins(text: str, name: str) -> frozenset[str]:
    """Hosts, or URLs for those without TLS, as the origins they stand for; ``name`` is the setting's."""
    found = (_host_of(entry, name) for entry in _entries(text))
    return frozenset(f"{scheme or 'https'}://{host}" for scheme, host in found)


def registry_name(registry_url: str) -> str:
    """The bare ``host[:port]`` of ``PROXY_REGISTRY_URL``, or nothing."""
    return _host_of(registry_url, "PROXY_REGISTRY_URL")[1] if registry_url else ""


def _entries(text: str) -> Iterable[str]:
    return (entry.strip() for entry in text.split(",") if entry.strip())


def _host_of(text: str, name: str) -> tuple[str, str]:
    """Scheme (may be empty) and ``host[:port]`` of a URL or a bare host."""
    scheme, host = "", text
    if "://" in text:
        parts = urlsplit(text)
        scheme, host = parts.scheme, parts.netloc
    else:
        host = text.partition("/")[0]
    problem = f"unknown scheme {scheme!r}" if scheme not in {"", "http", "https"} else host_problem(host)
    if problem:
        raise ConfigurationError(f"setting {name}: {text!r}: {problem}", hint="for example http://localhost:5000")
    return scheme, host.lower()
