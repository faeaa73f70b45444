"""A client for OCI registries: from a reference to the digest of its WASM binary, and from there to the bytes."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from proxy.auth import Challenge, Credentials, choose
from proxy.manifests import ACCEPTED, MAX_MANIFEST_BYTES, Binary, binary_of, decode, entry_of, is_index
from proxy.references import Endpoints, Reference, is_digest
from proxy.transfer import BROKEN, Limits, Transfer
from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import ForbiddenError, IntegrityError, NotFoundError, SwashplateError, UnavailableError

MANIFEST_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
BLOB_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=30)
REMEMBERED = 1000
TOKEN_MARGIN = 10
"""Seconds before its end at which a token is no longer used."""


def unreachable(address: str, error: BaseException) -> UnavailableError:
    secure = isinstance(error, aiohttp.ClientSSLError | aiohttp.ServerDisconnectedError) and address.startswith(
        "https:"
    )
    host = address.partition("://")[2]
    return UnavailableError(
        f"cannot reach {address}: {error or type(error).__name__}",
        code="registry_unreachable",
        hint=f"if it speaks plain HTTP, set PROXY_PLAIN_HTTP={host}" if secure else None,
    )


class OciClient:
    """Resolves and fetches. Credentials are shown to their own registry only, and to the token service it names."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoints: Endpoints,
        *,
        credentials: Credentials | None = None,
        further: Sequence[Credentials] = (),
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._credentials = [each for each in (credentials, *further) if each is not None and each.registry]
        self._limits = limits or Limits(max_bytes=256 << 20)
        self._clock = clock
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}
        self._binaries: OrderedDict[str, Binary] = OrderedDict()
        self._tags: OrderedDict[str, str] = OrderedDict()

    async def resolve(self, reference: Reference) -> Binary:
        """The binary that the reference means now; a tag is asked for every time, because tags move.

        Raises ``NotFoundError`` (image_not_found), ``ForbiddenError`` (image_forbidden), ``UnavailableError``
        (registry_unreachable), ``IntegrityError`` (digest_mismatch) and ``InvalidRequestError`` (invalid_manifest).
        """
        digest = reference.digest or await self._unmoved(reference)
        known = self._binaries.get(f"{self._endpoints.base(reference)}@{digest}") if digest else None
        if known is not None:
            return known
        digest, manifest = await self._manifest(reference, reference.selector)
        top = digest
        if is_index(manifest):
            _, manifest = await self._manifest(reference, entry_of(manifest, str(reference)))
        binary = binary_of(manifest, str(reference))
        _remember(self._binaries, f"{self._endpoints.base(reference)}@{top}", binary)
        if reference.digest is None:
            _remember(self._tags, str(reference), top)
        return binary

    async def fetch(self, reference: Reference, digest: str, size: int | None, store: BlobStore) -> None:
        """Put the blob ``digest`` of the reference's repository into ``store``, verified; see ``Transfer.run``."""

        def source(headers: dict[str, str]) -> Any:
            # Compressed on the way, a blob could not be resumed.
            return self._ask(
                "GET", reference, f"/blobs/{digest}", BLOB_TIMEOUT, {"Accept-Encoding": "identity", **headers}
            )

        await Transfer(source, digest, size, store, self._limits, what=str(reference)).run()

    async def _unmoved(self, reference: Reference) -> str | None:
        """The manifest digest of a tag seen before, when the registry says that it is still the same."""
        before = self._tags.get(str(reference))
        if before is None:
            return None
        async with self._ask(
            "HEAD", reference, f"/manifests/{reference.tag}", MANIFEST_TIMEOUT, {"Accept": ACCEPTED}, tolerate={405}
        ) as response:
            return before if response.headers.get("Docker-Content-Digest") == before else None

    async def _manifest(self, reference: Reference, selector: str) -> tuple[str, dict[str, Any]]:
        """The digest and the content of a manifest, verified when ``selector`` is a digest."""
        async with self._ask(
            "GET", reference, f"/manifests/{selector}", MANIFEST_TIMEOUT, {"Accept": ACCEPTED}
        ) as response:
            try:
                content = await _read(response, MAX_MANIFEST_BYTES)
            except BROKEN as error:
                raise unreachable(self._endpoints.url(reference.registry), error) from error
        if content is None:
            raise IntegrityError(
                f"the manifest of {reference} is larger than {MAX_MANIFEST_BYTES} bytes",
                code="invalid_manifest",
                retryable=False,
            )
        digest = sha256_digest(content)
        if is_digest(selector) and digest != selector:
            raise IntegrityError(
                f"the manifest of {reference} has digest {digest}, but {selector} was asked for", retryable=False
            )
        return digest, decode(content, str(reference))

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        reference: Reference,
        path: str,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        *,
        tolerate: frozenset[int] | set[int] = frozenset(),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 2xx answer, after authenticating when the registry asks for it; anything else is raised."""
        base = self._endpoints.base(reference)
        for last in (False, True):
            authorization = self._authorization(reference)
            sent = {**headers, "Authorization": authorization} if authorization else dict(headers)
            try:
                response = await self._session.request(method, f"{base}{path}", headers=sent, timeout=timeout)
            except BROKEN as error:
                raise unreachable(self._endpoints.url(reference.registry), error) from error
            async with response:
                if response.status == 401 and not last and self._same_origin(response, base):
                    challenge = choose(response.headers.getall("WWW-Authenticate", []))
                    if challenge is not None and await self._answer(challenge, reference):
                        continue
                if response.status not in {200, 206} and response.status not in tolerate:
                    raise await self._refusal(response, reference)
                yield response
                return

    def _same_origin(self, response: aiohttp.ClientResponse, base: str) -> bool:
        """A challenge counts only from the registry itself, not from where it redirects."""
        return response.url.origin() == URL(base).origin()

    def _authorization(self, reference: Reference) -> str | None:
        value, end = self._tokens.get((reference.registry, reference.repository), ("", 0.0))
        return value if value and self._clock() < end else None

    def _ours(self, reference: Reference) -> Credentials:
        """The credentials that are for this registry."""
        wanted = self._endpoints.url(reference.registry)
        return next((each for each in self._credentials if self._endpoints.url(each.registry) == wanted), Credentials())

    async def _answer(self, challenge: Challenge, reference: Reference) -> bool:
        """Get what the registry asks for; False when we have nothing (new) to show."""
        key, ours = (reference.registry, reference.repository), self._ours(reference)
        before = self._tokens.pop(key, None)
        if challenge.scheme == "basic":
            basic = ours.basic()
            if basic is None or before is not None:
                return False
            self._tokens[key] = (basic, float("inf"))
            return True
        if ours.token and not ours.username:
            if before is not None:
                return False
            self._tokens[key] = (f"Bearer {ours.token}", float("inf"))
            return True
        token, lifetime = await self._token(challenge, reference, ours)
        self._tokens[key] = (f"Bearer {token}", self._clock() + max(lifetime - TOKEN_MARGIN, 1))
        return True

    async def _token(self, challenge: Challenge, reference: Reference, ours: Credentials) -> tuple[str, float]:
        """A token for pulling, and how many seconds it lives (Docker Registry v2 token authentication)."""
        registry = self._endpoints.url(reference.registry)
        if not challenge.realm.startswith(("https://", "http://")):
            raise ForbiddenError(f"{registry} names no token service", code="image_forbidden")
        basic = ours.basic()
        if basic and challenge.realm.startswith("http://") and registry.startswith("https://"):
            raise ForbiddenError(
                f"{registry} wants the password sent to {challenge.realm} without TLS", code="image_forbidden"
            )
        scope = challenge.scope or f"repository:{self._endpoints.base(reference).partition('/v2/')[2]}:pull"
        query = {"scope": scope, **({"service": challenge.service} if challenge.service else {})}
        try:
            async with self._session.get(
                URL(challenge.realm).update_query(query),
                headers={"Authorization": basic} if basic else {},
                timeout=MANIFEST_TIMEOUT,
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response, reference)
                content = await _read(response, MAX_MANIFEST_BYTES)
        except BROKEN as error:
            raise unreachable(challenge.realm, error) from error
        try:
            body = json.loads(content or b"")
            token = body.get("token") or body["access_token"]
            lifetime = float(body.get("expires_in") or 60)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ForbiddenError(f"{challenge.realm} gave no token", code="image_forbidden") from error
        return str(token), lifetime

    async def _refusal(self, response: aiohttp.ClientResponse, reference: Reference) -> SwashplateError:
        """What an answer that is no success means."""
        status = response.status
        said = await _complaint(response)
        if status in {401, 403}:
            return ForbiddenError(
                f"the registry does not let us have {reference}: {status} {said}",
                code="image_forbidden",
                hint=self._forbidden_hint(reference),
            )
        if status == 404:
            return NotFoundError(
                f"the registry does not have {reference}: {said}",
                code="image_not_found",
                hint="check the name; registries tell upper from lower case",
            )
        retryable = status >= 500 or status in {408, 429}
        return UnavailableError(
            f"{response.url.origin()} answered {status} for {reference}: {said}",
            code="registry_unreachable",
            retryable=retryable,
        )

    def _forbidden_hint(self, reference: Reference) -> str:
        if self._ours(reference).registry:
            return "check PROXY_REGISTRY_USERNAME and PROXY_REGISTRY_PASSWORD, and that they may read this repository"
        return (
            f"a private image needs PROXY_AUTHENTICATE=true, PROXY_REGISTRY_URL={reference.registry},"
            " PROXY_REGISTRY_USERNAME and PROXY_REGISTRY_PASSWORD"
        )


def _remember(table: OrderedDict[str, Any], key: str, value: Any) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > REMEMBERED:
        table.popitem(last=False)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body, or ``None`` when it is longer than ``limit`` bytes."""
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > limit:
            return None
    return bytes(content)


async def _complaint(response: aiohttp.ClientResponse) -> str:
    """The first error that a registry gives, in its own words."""
    try:
        text = (await response.content.read(4096)).decode(errors="replace")
    except BROKEN:
        return response.reason or ""
    try:
        first = json.loads(text)["errors"][0]
        return str(first.get("message") or first["code"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return text.strip()[:200] or response.reason or ""
