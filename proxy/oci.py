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

from proxy import refusals
from proxy.addresses import Endpoints
from proxy.auth import Challenge, Credentials, choose, may_see_password
from proxy.manifests import ACCEPTED, MAX_MANIFEST_BYTES, Binary, Manifest, binary_of, decode, entry_of, is_index
from proxy.transfer import BROKEN, Limits, Transfer
from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import IntegrityError, SwashplateError, UnavailableError
from swashplate.references import Reference, is_digest

MANIFEST_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5)
BLOB_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=30)
REMEMBERED = 1000
TOKEN_MARGIN = 10
"""Seconds before its end at which a token is no longer used."""


class OciClient:
    """Resolves and fetches. Credentials are shown to their own registry only, and to a token service that it names and
    that ``may_see_password``.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoints: Endpoints,
        *,
        credentials: Credentials | None = None,
        further: Sequence[Credentials] = (),
        limits: Limits | None = None,
        advice: refusals.Advice = refusals.PROXY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._credentials = [each for each in (credentials, *further) if each is not None and each.registry]
        self._limits = limits or Limits(max_bytes=256 << 20)
        self._advice = advice
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
        found = await self.manifest(reference)
        binary = await self.binary_in(reference, found)
        _remember(self._binaries, f"{self._endpoints.base(reference)}@{found.digest}", binary)
        if reference.digest is None:
            _remember(self._tags, str(reference), found.digest)
        return binary

    async def binary_in(self, reference: Reference, found: Manifest) -> Binary:
        """The binary of a manifest, or of the WASM image in an index. Raises as ``resolve`` does."""
        manifest = decode(found.content, str(reference))
        if is_index(manifest):
            inner = await self.manifest(reference, entry_of(manifest, str(reference)))
            manifest = decode(inner.content, str(reference))
        return binary_of(manifest, str(reference))

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

    async def manifest(self, reference: Reference, digest: str | None = None) -> Manifest:
        """The manifest of the reference, or another one of its repository by ``digest``; verified when a digest says what
        it must be. Raises as ``resolve`` does.
        """
        selector = digest or reference.selector
        async with self._ask(
            "GET", reference, f"/manifests/{selector}", MANIFEST_TIMEOUT, {"Accept": ACCEPTED}
        ) as response:
            try:
                content = await _read(response, MAX_MANIFEST_BYTES)
            except BROKEN as error:
                raise self._unreachable(reference, error) from error
            media_type = response.content_type
        if content is None:
            raise IntegrityError(
                f"the manifest of {reference} is larger than {MAX_MANIFEST_BYTES} bytes",
                code="invalid_manifest",
                retryable=False,
            )
        found = Manifest(sha256_digest(content), media_type, content)
        if is_digest(selector) and found.digest != selector:
            raise IntegrityError(
                f"the manifest of {reference} has digest {found.digest}, but {selector} was asked for", retryable=False
            )
        return found

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
                raise self._unreachable(reference, error) from error
            async with response:
                if response.status == 401 and not last and self._same_origin(response, base):
                    challenge = choose(response.headers.getall("WWW-Authenticate", []))
                    if challenge is not None and await self._answer(challenge, reference):
                        continue
                if response.status not in {200, 206} and response.status not in tolerate:
                    if response.status in {401, 403}:  # perhaps a right that is granted any moment
                        self._tokens.pop((reference.registry, reference.repository), None)
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
        registry, basic = self._endpoints.url(reference.registry), ours.basic()
        if not challenge.realm.startswith(("https://", "http://")):
            raise refusals.forbidden(f"{registry} names no token service", self._login_hint(reference))
        if basic and not may_see_password(challenge.realm, registry, ours.token_services):
            raise refusals.forbidden(
                f"{registry} wants the password sent to {challenge.realm}, which is not known to be its token service",
                self._advice.stranger,
            )
        scope = challenge.scope or f"repository:{self._endpoints.base(reference).partition('/v2/')[2]}:pull"
        query = {"scope": scope, **({"service": challenge.service} if challenge.service else {})}
        try:
            url = URL(challenge.realm).update_query(query)
        except ValueError as error:
            raise refusals.forbidden(f"{registry} names {challenge.realm!r} as token service", "") from error
        try:
            async with self._session.get(
                url,
                headers={"Authorization": basic} if basic else {},
                timeout=MANIFEST_TIMEOUT,
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response, reference)
                content = await _read(response, MAX_MANIFEST_BYTES)
        except BROKEN as error:
            raise refusals.unreachable(reference.registry, challenge.realm, error, self._advice) from error
        try:
            body = json.loads(content or b"")
            token = body.get("token") or body["access_token"]
            lifetime = float(body.get("expires_in") or 60)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise refusals.forbidden(f"{challenge.realm} gave no token", self._login_hint(reference)) from error
        return str(token), lifetime

    async def _refusal(self, response: aiohttp.ClientResponse, reference: Reference) -> SwashplateError:
        """What an answer that is no success means."""
        return refusals.refused(
            response.status,
            response.reason or "",
            await _complaint(response),
            reference,
            address=str(response.url.origin()),
            login_hint=self._login_hint(reference),
            anonymous=not self._ours(reference).registry,
            advice=self._advice,
        )

    def _unreachable(self, reference: Reference, error: BaseException) -> UnavailableError:
        return refusals.unreachable(reference.registry, self._endpoints.url(reference.registry), error, self._advice)

    def _login_hint(self, reference: Reference) -> str:
        ours = self._ours(reference)
        if not ours.registry:
            return self._advice.no_login.format(registry=reference.registry)
        return self._advice.login_refused if ours.username else self._advice.bearer_refused


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
    try:
        text = (await response.content.read(4096)).decode(errors="replace")
    except BROKEN:
        text = ""
    return refusals.complaint(text, response.reason or "")
