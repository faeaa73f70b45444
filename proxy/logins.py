"""Which login is shown to a registry: the proxy's settings say it, a command's options, or what docker stored."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy import addresses
from proxy.addresses import DOCKER_HUB, LOCAL_REGISTRY
from proxy.auth import Credentials
from proxy.settings import ProxySettings
from swashplate import logging
from swashplate.errors import ConfigurationError
from swashplate.references import is_loopback

log = logging.get("proxy")

HELPER_SECONDS = 10
GIVE_HINT = "repair it, or give --username and --password-stdin"


def of_proxy(settings: ProxySettings) -> Credentials:
    """What PROXY_AUTHENTICATE and its companions say; raises ``ConfigurationError`` naming what is missing."""
    registry, user, password = settings.registry_url, settings.registry_username, settings.registry_password
    if not settings.authenticate:
        if password or settings.registry_token:
            log.warning("registry credentials are set but not used", hint="set PROXY_AUTHENTICATE=true")
        return Credentials()
    if not registry:
        raise ConfigurationError(
            "PROXY_AUTHENTICATE is set, but PROXY_REGISTRY_URL does not say for which registry", hint="such as ghcr.io"
        )
    services = addresses.origins(settings.registry_token_services, "PROXY_REGISTRY_TOKEN_SERVICES")
    host = addresses.registry_name(registry)
    if user and password:
        return Credentials(host, username=user, password=password, token_services=services)
    if settings.registry_token:
        return Credentials(host, token=settings.registry_token)
    missing = [
        name for name, value in (("PROXY_REGISTRY_USERNAME", user), ("PROXY_REGISTRY_PASSWORD", password)) if not value
    ]
    raise ConfigurationError(
        f"PROXY_AUTHENTICATE is set, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not",
        hint="set PROXY_REGISTRY_USERNAME and PROXY_REGISTRY_PASSWORD, or PROXY_REGISTRY_TOKEN",
    )


def of_embedded_registry(settings: ProxySettings) -> Credentials:
    """What is shown to our own registry: it takes its token as the password of any user."""
    token = settings.oci_registry_token.get_secret_value()
    if not (token and settings.oci_registry_url):
        return Credentials()
    host = addresses.registry_name(settings.oci_registry_url)
    return Credentials(host, username="swashplate", password=token)


def of_command(
    registry: str, *, username: str, password: str, token_services: str, environ: Mapping[str, str] | None = None
) -> Credentials:
    """The login that was given, else the one that docker or oras stored for this registry, else for a registry of this
    machine the embedded one's token, else none.

    Raises ``ConfigurationError`` for half a login, and when the stored ones cannot be read.
    """
    services = addresses.origins(token_services, "--token-service")
    if username and password:
        return Credentials(registry, username, password, token_services=services)
    if username or password:
        raise ConfigurationError(
            f"a user without a password: {username}" if username else "a password without a user",
            hint="give both: --username NAME --password-stdin, or REGISTRY_USERNAME and REGISTRY_PASSWORD",
        )
    environ = os.environ if environ is None else environ
    found = _stored(registry, environ)
    token = environ.get("OCI_REGISTRY_HTTP_TOKEN")
    if found is None and token and (is_loopback(registry) or registry.partition(":")[0] == LOCAL_REGISTRY):
        found = ("swashplate", token)
    return Credentials(registry, *found, token_services=services) if found else Credentials()


def _stored(registry: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    folder = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME") or "~").expanduser() / ".docker")
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
        logins = config.get("auths") or {}
        helpers = config.get("credHelpers") or {}
        for name in (*logins, *helpers):
            if _same(name, registry):
                login = _from_helper(helpers[name], name) if name in helpers else _inline(logins[name])
                if login is not None:
                    return login
        store = config.get("credsStore")
        return _from_helper(store, registry) if store else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", hint=GIVE_HINT) from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"cannot use the logins in {path}: {error}", hint=GIVE_HINT) from error


def _same(stored: str, registry: str) -> bool:
    """Docker writes hosts, and old versions URLs; this machine has two names."""
    host = stored.partition("://")[2].partition("/")[0] if "://" in stored else stored.partition("/")[0]
    if host == registry or {host, registry} <= DOCKER_HUB:
        return True
    return is_loopback(host) and is_loopback(registry) and host.partition(":")[2] == registry.partition(":")[2]


def _inline(login: Any) -> tuple[str, str] | None:
    if login.get("auth"):
        user, _, password = base64.b64decode(login["auth"], validate=True).decode().partition(":")
        return (user, password) if user and password else None
    user, password = login.get("username"), login.get("password")
    return (user, password) if user and password else None


def _from_helper(helper: str, registry: str) -> tuple[str, str] | None:
    """Ask ``docker-credential-{helper}``; one that is missing or knows nothing is as good as no login."""
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=registry.encode(),
            capture_output=True,
            timeout=HELPER_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    said = json.loads(done.stdout)
    user, password = said["Username"], said["Secret"]
    return None if user == "<token>" else (user, password)  # an identity token, which is no password
