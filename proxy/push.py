"""Push a WASM binary to a registry as an OCI artifact of one layer."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oras.auth
import oras.auth.utils
import oras.defaults
import oras.oci
import oras.provider
import requests
from oras.container import Container

from proxy import refusals
from proxy.addresses import Endpoints
from proxy.auth import Challenge, Credentials, choose, may_see_password
from proxy.manifests import ARTIFACT_TYPE, EMPTY_CONFIG, OCI_MANIFEST
from swashplate.blobs import sha256_digest
from swashplate.client import reason_of
from swashplate.errors import (
    InvalidRequestError,
    NotFoundError,
    SwashplateError,
    TooLargeError,
    UnavailableError,
)
from swashplate.messages.tasks import WASM_MAGIC
from swashplate.references import Reference, is_loopback

PROBE_SECONDS = 3
REQUEST_SECONDS = 60


@dataclass(frozen=True)
class Pushed:
    reference: Reference
    manifest_digest: str
    binary_digest: str
    size: int


class _TokenAuth(oras.auth.TokenAuth):  # type: ignore[misc]  # oras has no types
    """oras' token exchange, but every challenge gets a token of its own scope (one for pulling does not push), and the
    password goes only where it may.
    """

    def __init__(self, base: str, credentials: Credentials) -> None:
        super().__init__()
        self._base = base
        self._credentials = credentials

    def authenticate_request(self, original: requests.Response, headers: Any, refresh: bool = False) -> Any:
        return super().authenticate_request(original, headers, refresh=True)

    def request_token(self, challenge: oras.auth.utils.authHeader) -> Any:
        realm = challenge.realm or ""
        if not realm:
            raise refusals.forbidden(f"{self._base} names no token service", _login_hint(self._credentials))
        if not may_see_password(realm, self._base, self._credentials.token_services):
            raise refusals.forbidden(
                f"{self._base} wants the password sent to {realm!r}, which is not known to be its token service",
                refusals.COMMAND.stranger,
            )
        return super().request_token(challenge)


class _Registry(oras.provider.Registry):  # type: ignore[misc]
    """oras' client, without its repetitions: they sleep for up to 131 s, also when the password is wrong."""

    def __init__(self, base: str, challenge: Challenge | None, credentials: Credentials) -> None:
        scheme, _, host = base.partition("://")
        basic = challenge is not None and challenge.scheme == "basic"
        super().__init__(hostname=host, insecure=scheme == "http", auth_backend="basic" if basic else "token")
        if not basic:
            self.auth = _TokenAuth(base, credentials)
            self.auth.session, self.auth.prefix, self.auth._tls_verify = self.session, scheme, True  # noqa: SLF001
        if credentials.username:
            self.auth.set_basic_auth(credentials.username, credentials.password)
        self.session.request = functools.partial(self.session.request, timeout=(PROBE_SECONDS, REQUEST_SECONDS))

    def do_request(self, *args: Any, **kwargs: Any) -> requests.Response:
        response: requests.Response = oras.provider.Registry.do_request.__wrapped__(self, *args, **kwargs)
        if response.status_code in {401, 403}:
            raise requests.HTTPError(response=response)
        return response


def _login_hint(credentials: Credentials) -> str:
    return refusals.COMMAND.login_refused if credentials.username else refusals.COMMAND.no_login


def read_wasm(path: Path) -> bytes:
    """Raises ``InvalidRequestError`` when the file cannot be read or is not WebAssembly."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}", code="unreadable_file") from error
    if not content.startswith(WASM_MAGIC):
        raise InvalidRequestError(
            f"{path} is not WebAssembly: it does not begin with 00 61 73 6d", code="not_wasm", hint="push a .wasm file"
        )
    return content


def push(
    path: Path,
    reference: Reference,
    *,
    endpoints: Endpoints,
    credentials: Credentials | None = None,
    media_type: str = "application/wasm",
) -> Pushed:
    """Push and return the digests.

    Raises ``InvalidRequestError``, ``ForbiddenError`` and, within seconds, ``UnavailableError``.
    """
    if reference.digest:
        raise InvalidRequestError("push to a tag, not to a digest", code="invalid_reference")
    credentials = credentials or Credentials()
    content = read_wasm(path)
    base = endpoints.url(reference.registry)
    challenge = _probe(reference, base)
    if challenge is not None and challenge.scheme == "basic" and not credentials.username:
        raise refusals.forbidden(f"{base} wants a user and a password", refusals.COMMAND.no_login)
    registry = _Registry(base, challenge, credentials)
    container = Container(f"{reference.repository}:{reference.tag}", registry=registry.hostname)
    try:
        manifest_digest = _push(registry, container, path, media_type)
    except (requests.RequestException, ValueError, AttributeError, oras.auth.AuthenticationException) as error:
        # An AttributeError is how oras meets a challenge that it does not understand.
        raise _refused(base, reference, error, _login_hint(credentials)) from error
    return Pushed(reference, manifest_digest, sha256_digest(content), len(content))


def _probe(reference: Reference, base: str) -> Challenge | None:
    """Is it there, and how does it want to be told who we are?"""
    try:
        response = requests.get(f"{base}/v2/", timeout=PROBE_SECONDS, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise refusals.unreachable(reference.registry, base, _cause(error), refusals.COMMAND) from error
    except requests.RequestException as error:
        hint = "is it running? `swashplate oci-registry` starts one on this machine"
        raise UnavailableError(
            f"cannot reach the registry at {base}: {reason_of(_cause(error))}",
            code="registry_unreachable",
            hint=hint if is_loopback(reference.registry) or base.startswith("http:") else None,
        ) from error
    if response.status_code == 400 and base.startswith("http:"):
        said = refusals.complaint(response.text, response.reason)
        raise refusals.other_protocol(base, f"400 {said}", refusals.COMMAND, reference.registry)
    return choose([response.headers.get("WWW-Authenticate", "")])


def _cause(error: requests.RequestException) -> BaseException:
    """What the TLS library or the system said, below the layers of the HTTP library."""
    around = error.args[0] if error.args else error
    around = getattr(around, "reason", around)
    found = around.args[0] if getattr(around, "args", None) else around
    if isinstance(found, ssl.SSLError):
        return found
    below = getattr(around, "__cause__", None)
    return below if isinstance(below, OSError) else error


def _push(registry: _Registry, container: Container, path: Path, media_type: str) -> str:
    layer = oras.oci.NewLayer(str(path), media_type=media_type)
    layer["annotations"] = {oras.defaults.annotation_title: path.name}
    with oras.provider.temporary_empty_config() as empty:
        for file, part in ((str(path), layer), (empty, EMPTY_CONFIG)):
            _check(registry.upload_blob(file, container, part))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": EMPTY_CONFIG,
        "layers": [layer],
    }
    response = _check(registry.upload_manifest(manifest, container))
    body = response.request.body
    return sha256_digest(body if isinstance(body, bytes) else str(body).encode())


def _check(response: requests.Response) -> requests.Response:
    if response.status_code not in {200, 201, 202}:
        raise requests.HTTPError(response=response)
    return response


def _refused(base: str, reference: Reference, error: Exception, login_hint: str) -> SwashplateError:
    """Some refusals oras tells only in words."""
    response = error.response if isinstance(error, requests.RequestException) else None
    if response is None and isinstance(error, requests.RequestException):
        return UnavailableError(f"the push to {base} broke: {error}", code="registry_unreachable")
    status = response.status_code if response is not None else 401
    said = refusals.complaint(response.text, response.reason or "") if response is not None else str(error)
    sentence = f"{base} refuses the push of {reference}: {status} {said}"
    if status in {401, 403}:
        return refusals.forbidden(sentence, login_hint)
    if status == 404:
        return NotFoundError(sentence, code="image_not_found")
    if status == 413:
        return TooLargeError(sentence)
    return UnavailableError(sentence, code="registry_unreachable", retryable=status >= 500)
