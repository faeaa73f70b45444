"""How a command on this machine finds a registry that the proxy may know by another name."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from proxy.addresses import LOCAL_REGISTRY, Endpoints, endpoints
from swashplate.references import Reference


def endpoints_for(reference: Reference, *, plain_http: bool, environ: Mapping[str, str] | None = None) -> Endpoints:
    """With the aliases of the environment. The demo's name for the registry of this machine is understood also where no
    name server knows it, which is everywhere but among containers.
    """
    environ = os.environ if environ is None else environ
    aliases = environ.get("SWASHPLATE_REGISTRY_ALIASES") or environ.get("PROXY_REGISTRY_ALIASES") or ""
    found = endpoints(aliases=aliases, plain_http=reference.registry if plain_http else "")
    name, colon, port = reference.registry.partition(":")
    if name != LOCAL_REGISTRY or reference.registry in found.aliases or _resolves(name):
        return found
    return Endpoints({**found.aliases, reference.registry: f"http://127.0.0.1{colon}{port}"}, found.plain)


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True
