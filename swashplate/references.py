"""What an image reference means: its grammar, as registries and all who name an image share it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from swashplate.errors import InvalidRequestError

DEFAULT_TAG = "latest"
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
    name, port = host_and_port(host)
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


def host_and_port(host: str) -> tuple[str, str | None]:
    """Name and port; an IPv6 address keeps its brackets."""
    if host.startswith("[") and "]" in host:
        name, _, rest = host.partition("]")
        return f"{name}]", rest.removeprefix(":") if rest else None
    name, colon, port = host.partition(":")
    return name, port if colon else None


def is_loopback(host: str) -> bool:
    """Does ``host[:port]`` name this machine?"""
    name = host_and_port(host)[0].strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
