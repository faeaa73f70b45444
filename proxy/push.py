"""Push a WASM binary to a registry as an OCI artifact of one layer."""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oras.defaults
import oras.oci
import oras.provider
import requests
from oras.container import Container

from proxy.auth import choose
from proxy.manifests import WASM_MAGIC
from proxy.references import Endpoints, Reference
from swashplate.blobs import sha256_digest
from swashplate.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    SwashplateError,
    TooLargeError,
    UnavailableError,
)

PROBE_SECONDS = 3
REQUEST_SECONDS = 60
LOGIN_HINT = "give --username and --password, or log in with docker or oras first"
LOCAL_REGISTRY = "local-registry"


@dataclass(frozen=True)
class Pushed:
    reference: Reference
    manifest_digest: str
    binary_digest: str
    size: int


class _Registry(oras.provider.Registry):  # type: ignore[misc]  # oras has no types
    """oras' client, without its repetitions: they sleep for up to 131 s, also when the password is wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.session.request = functools.partial(self.session.request, timeout=(PROBE_SECONDS, REQUEST_SECONDS))

    def do_request(self, *args: Any, **kwargs: Any) -> requests.Response:
        response: requests.Response = oras.provider.Registry.do_request.__wrapped__(self, *args, **kwargs)
        if response.status_code in {401, 403}:
            raise requests.HTTPError(response=response)
        return response


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


def address_of(reference: Reference, endpoints: Endpoints) -> tuple[str, bool]:
    """``host[:port]`` to connect to, and whether without TLS. The demo's name for the registry of this machine is
    understood also where no name server knows it.
    """
    url = endpoints.url(reference.registry)
    scheme, _, host = url.partition("://")
    name, colon, port = host.partition(":")
    if name == LOCAL_REGISTRY and reference.registry not in endpoints.aliases and not _resolves(name):
        return f"127.0.0.1{colon}{port}", True
    return host, scheme == "http"


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def push(
    path: Path,
    reference: Reference,
    *,
    endpoints: Endpoints,
    media_type: str = "application/wasm",
    username: str = "",
    password: str = "",
) -> Pushed:
    """Push and return the digests. Without a user, docker's stored logins are used, as by other clients.

    Raises ``InvalidRequestError``, ``ForbiddenError`` and, within seconds, ``UnavailableError``.
    """
    if reference.digest:
        raise InvalidRequestError("push to a tag, not to a digest", code="invalid_reference")
    content = read_wasm(path)
    host, plain = address_of(reference, endpoints)
    base = f"{'http' if plain else 'https'}://{host}"
    asks_for = _probe(base)
    registry = _Registry(hostname=host, insecure=plain, auth_backend=asks_for)
    container = Container(f"{reference.repository}:{reference.tag}", registry=host)
    if username:
        registry.auth.set_basic_auth(username, password)
    else:
        registry.auth.load_configs(container)
    if asks_for == "basic" and not getattr(registry.auth, "_basic_auth", None):
        raise ForbiddenError(f"{base} wants a user and a password", code="image_forbidden", hint=LOGIN_HINT)
    try:
        manifest_digest = _push(registry, container, path, media_type)
    except (requests.RequestException, ValueError, AttributeError, oras.auth.AuthenticationException) as error:
        # An AttributeError is how oras meets a challenge that it does not understand.
        raise _refused(base, reference, error) from error
    return Pushed(reference, manifest_digest, sha256_digest(content), len(content))


def _probe(base: str) -> str:
    """Is it there, and which of oras' ways to authenticate does it want: basic or token?"""
    try:
        response = requests.get(f"{base}/v2/", timeout=PROBE_SECONDS, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise UnavailableError(
            f"cannot speak TLS with {base}: {error}",
            code="registry_unreachable",
            hint="use --plain-http when the registry speaks plain HTTP",
        ) from error
    except requests.RequestException as error:
        raise UnavailableError(
            f"cannot reach the registry at {base}",
            code="registry_unreachable",
            hint="is it running? `swashplate oci-registry` starts one on this machine",
        ) from error
    challenge = choose([response.headers.get("WWW-Authenticate", "")])
    return "basic" if challenge is not None and challenge.scheme == "basic" else "token"


def _push(registry: _Registry, container: Container, path: Path, media_type: str) -> str:
    layer = oras.oci.NewLayer(str(path), media_type=media_type)
    layer["annotations"] = {oras.defaults.annotation_title: path.name}
    config, _ = oras.oci.ManifestConfig()
    with oras.provider.temporary_empty_config() as empty:
        for file, part in ((str(path), layer), (empty, config)):
            _check(registry.upload_blob(file, container, part))
    manifest = {**oras.oci.NewManifest(), "config": config, "layers": [layer]}
    response = _check(registry.upload_manifest(manifest, container))
    body = response.request.body
    return sha256_digest(body if isinstance(body, bytes) else str(body).encode())


def _check(response: requests.Response) -> requests.Response:
    if response.status_code not in {200, 201, 202}:
        raise requests.HTTPError(response=response)
    return response


def _refused(base: str, reference: Reference, error: Exception) -> SwashplateError:
    """Some refusals oras tells only in words."""
    response = error.response if isinstance(error, requests.RequestException) else None
    if response is None and isinstance(error, requests.RequestException):
        return UnavailableError(f"the push to {base} broke: {error}", code="registry_unreachable")
    status = response.status_code if response is not None else 401
    said = (response.text.strip()[:200] if response is not None else "") or str(error)
    sentence = f"{base} refuses the push of {reference}: {status} {said}"
    if status in {401, 403}:
        return ForbiddenError(sentence, code="image_forbidden", hint=LOGIN_HINT)
    if status == 404:
        return NotFoundError(sentence, code="image_not_found")
    if status == 413:
        return TooLargeError(sentence)
    return UnavailableError(sentence, code="registry_unreachable", retryable=status >= 500)
