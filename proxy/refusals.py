"""What it means when a registry does not give what was asked for, and what to do about it."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass

import aiohttp

from swashplate.client import reason_of
from swashplate.errors import ForbiddenError, NotFoundError, SwashplateError, UnavailableError
from swashplate.references import Reference, is_loopback

LOOPBACK_HINT = (
    "is it running? Inside a container, localhost is the container itself: name the registry by its service,"
    " such as local-registry:5000"
)
CERTIFICATE_HINT = "SSL_CERT_FILE names a file of the certificates to trust, for `swashplate push` REQUESTS_CA_BUNDLE"
_EXACT = "the repository must be spelled exactly as it was pushed"


@dataclass(frozen=True)
class Advice:
    """Hints for whoever chose the image: the proxy has settings, a command has options. ``{registry}`` is filled in."""

    no_login: str
    login_refused: str
    bearer_refused: str
    plain_http: str
    tls: str
    stranger: str


PROXY = Advice(
    no_login="a private image needs PROXY_AUTHENTICATE=true, PROXY_REGISTRY_URL={registry}, PROXY_REGISTRY_USERNAME (at"
    f" ghcr.io in lower case) and PROXY_REGISTRY_PASSWORD (at ghcr.io a token with read:packages); {_EXACT}",
    login_refused="check that PROXY_REGISTRY_USERNAME is right (at ghcr.io in lower case) and that PROXY_REGISTRY_PASSWORD"
    f" may read this repository (at ghcr.io a token with read:packages); {_EXACT}",
    bearer_refused="PROXY_REGISTRY_TOKEN is not accepted; ghcr.io wants PROXY_REGISTRY_USERNAME and"
    " PROXY_REGISTRY_PASSWORD",
    plain_http="if it speaks plain HTTP, set PROXY_PLAIN_HTTP={registry}",
    tls="if it speaks TLS, write https:// into PROXY_REGISTRY_URL, and do not name it in PROXY_PLAIN_HTTP",
    stranger="if that is its token service, add it to PROXY_REGISTRY_TOKEN_SERVICES",
)
COMMAND = Advice(
    no_login="give --username and --password-stdin, or log in with docker or oras first",
    login_refused=f"check the user (at ghcr.io in lower case) and the password or the token's scopes; {_EXACT}",
    bearer_refused="",
    plain_http="use --plain-http if it speaks plain HTTP",
    tls="if it speaks TLS, leave --plain-http away, or for localhost set"
    " PROXY_REGISTRY_ALIASES={registry}=https://{registry}",
    stranger="if that is its token service, name it with --token-service",
)


def unreachable(registry: str, address: str, error: BaseException, advice: Advice) -> UnavailableError:
    """``address`` is what was connected to: the registry itself, or its token service."""
    secure, hint = address.startswith("https:"), None
    if isinstance(error, ssl.CertificateError):
        hint = CERTIFICATE_HINT
    elif isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerDisconnectedError):
        hint = (advice.plain_http if secure else advice.tls).format(registry=registry)
    elif is_loopback(registry):
        hint = LOOPBACK_HINT
    return UnavailableError(
        f"cannot reach {address}: {reason_of(error)}",
        code="registry_unreachable",
        hint=hint,
        # A registry that speaks the other protocol, or has another's certificate, will do so in a second, too.
        retryable=not isinstance(error, aiohttp.ClientSSLError | ssl.SSLError),
    )


def other_protocol(address: str, words: str, advice: Advice, registry: str) -> UnavailableError:
    """A registry with TLS answers plain HTTP with 400."""
    return UnavailableError(
        f"{address} answered {words}",
        code="registry_unreachable",
        hint=advice.tls.format(registry=registry),
        retryable=False,
    )


def complaint(body: str, reason: str) -> str:
    """The first error that a registry gives, in its own words; ``reason`` when it gives none."""
    try:
        said = json.loads(body)
        first = said["errors"][0] if "errors" in said else {"code": said["error"]}
        return str(first.get("message") or first["code"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return body.strip()[:200] or reason


def forbidden(what: str, hint: str) -> ForbiddenError:
    return ForbiddenError(what, code="image_forbidden", hint=hint)


def refused(
    status: int,
    reason: str,
    said: str,
    reference: Reference,
    *,
    address: str,
    login_hint: str,
    anonymous: bool,
    advice: Advice,
) -> SwashplateError:
    """An answer that is no success, given by ``address``. ``login_hint`` says what to do about our login; ``anonymous``
    when none was shown.
    """
    words = f"{status} {reason}" + (f": {said}" if said and said != reason else "")
    if status in {401, 403}:
        return forbidden(f"the registry does not let us have {reference}: {words}", login_hint)
    if status == 404:
        hint = f"check the tag; {_EXACT}" + (
            f"; registries hide private images: {login_hint.removesuffix(f'; {_EXACT}')}" if anonymous else ""
        )
        return NotFoundError(f"the registry does not have {reference}: {words}", code="image_not_found", hint=hint)
    if status == 400 and address.startswith("http:"):
        return other_protocol(address, words, advice, reference.registry)
    return UnavailableError(
        f"{address} answered {words} for {reference}",
        code="registry_unreachable",
        retryable=status >= 500 or status in {408, 429},
    )
