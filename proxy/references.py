"""What an image reference means, and at which address its registry is spoken to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from swashplate.errors import ConfigurationError, InvalidRequestError

DEFAULT_TAG = "latest"
LOCAL_REGISTRY = "local-registry"
"""The demo's registry among containers: a name that only their network knows, so nobody could certify it for TLS."""
DOCKER_HUB = {"docker.io", "index.docker.io"}
MAX_NAME = 255

# OCI Distribution Specification v1.1, section "Pulling manifests".
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*")


def is_repository(name: str) -> bool:
    return len(name) <= MAX_NAME and _REPOSITORY.fullmatch(name) is not None


def is_tag(name: str) -> bool:
    return _TAG.fullmatch(name) is not None


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class Reference:
    """``registry/repository:tag`` or ``registry/repository@digest``; with both, the digest decides."""

    registry: str
    repository: str
    tag: str = DEFAULT_TAG
    digest: str | None = None

    @property
    def selector(self) -> str:
        """What stands in a manifest's URL."""
        return self.digest or self.tag

    def __str__(self) -> str:
        if self.digest:
            return f"{self.registry}/{self.repository}@{self.digest}"
        return f"{self.registry}/{self.repository}:{self.tag}"


def _invalid(text: str, reason: str, hint: str | None = None) -> InvalidRequestError:
    return InvalidRequestError(f"invalid image reference {text!r}: {reason}", code="invalid_reference", hint=hint)


def parse(text: str) -> Reference:
    """``host[:port]/repository[:tag][@sha256:…]``; raises ``InvalidRequestError`` saying what is wrong with it."""
    if not text:
        raise _invalid(text, "it is empty")
    if "://" in text:
        bare = text.partition("://")[2]
        raise _invalid(text, "an image reference has no scheme", f"write {bare}")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise _invalid(text, "it contains a space or a control character")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, f"invalid digest {digest!r}, expected sha256: and 64 lower-case hexadecimal digits")
    registry, slash, path = name.partition("/")
    if not slash:
        raise _invalid(text, "it names no registry", f"for example ghcr.io/owner/{text}, or localhost:5000/{text}")
    problem = host_problem(registry)
    if problem:
        raise _invalid(text, f"invalid registry {registry!r}: {problem}")
    repository, colon, tag = path.partition(":")
    if colon and not is_tag(tag):
        raise _invalid(text, f"invalid tag {tag!r}: letters, digits, '_', '.' and '-', at most 128")
    if not is_repository(repository):
        problem = _repository_problem(repository)
        hint = None
        if is_repository(repository.lower()):
            rest = text[len(f"{registry}/{repository}") :]
            hint = f"write {registry}/{repository.lower()}{rest}"
        raise _invalid(text, f"invalid repository {repository!r}: {problem}", hint)
    return Reference(registry.lower(), repository, tag or DEFAULT_TAG, digest or None)


def _repository_problem(repository: str) -> str:
    if not repository:
        return "it is empty"
    if len(repository) > MAX_NAME:
        return f"it is longer than {MAX_NAME} characters"
    if repository != repository.lower():
        return "it must be lower case"
    return "parts of a-z and 0-9, joined by '.', '_', '__' or '-', separated by '/'"


def host_problem(host: str) -> str | None:
    """Why ``host[:port]`` cannot be a registry; ``None`` when it can."""
    if "@" in host:
        return "credentials do not belong into a reference"
    name, port = _split(host)
    if not name:
        return "it is empty"
    if port is not None and not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        return f"invalid port {port!r}"
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            return "not an IPv6 address"
    elif len(name) > MAX_NAME or not _HOST.fullmatch(name):
        return "not a host name"
    return None


def _split(host: str) -> tuple[str, str | None]:
    """Name and port; an IPv6 address keeps its brackets."""
    if host.startswith("[") and "]" in host:
        name, _, rest = host.partition("]")
        return f"{name}]", rest.removeprefix(":") if rest else None
    name, colon, port = host.partition(":")
    return name, port if colon else None


def is_loopback(host: str) -> bool:
    """Does ``host[:port]`` name this machine?"""
    name = _split(host)[0].strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


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
        plain = registry in self.plain or is_loopback(registry) or _split(registry)[0] == LOCAL_REGISTRY
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
