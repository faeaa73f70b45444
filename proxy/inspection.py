"""What a registry has under a reference, for people: the manifest, and the binary in it that a proplet would run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from proxy import refusals
from proxy.addresses import Endpoints
from proxy.auth import Credentials
from proxy.manifests import Binary, Manifest, decode
from proxy.oci import OciClient
from swashplate.errors import InvalidRequestError
from swashplate.references import Reference


@dataclass(frozen=True)
class Inspected:
    manifest: Manifest
    decoded: dict[str, Any]
    binary: Binary | None
    problem: str
    """Why no binary can be had from it; empty when there is one."""

    def lines(self) -> list[str]:
        """The manifest as indented JSON, then one line each."""
        told = [
            json.dumps(self.decoded, indent=2, ensure_ascii=False),
            f"Digest: {self.manifest.digest}",
            f"MediaType: {self.manifest.media_type}",
            f"Size: {len(self.manifest.content)} bytes",
        ]
        if self.binary is None:
            return [*told, f"Binary: none, {self.problem}"]
        kind = self.binary.media_type or "no media type"
        note = "" if self.binary.says_wasm else ", the largest layer: none says that it is WebAssembly"
        return [*told, f"Binary: {self.binary.digest} ({self.binary.size} bytes, {kind}{note})"]


async def inspect(reference: Reference, endpoints: Endpoints, credentials: Credentials) -> Inspected:
    """Raises as ``OciClient.resolve`` does, but an image without a usable binary is shown all the same."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        client = OciClient(session, endpoints, credentials=credentials, advice=refusals.COMMAND)
        manifest = await client.manifest(reference)
        decoded = decode(manifest.content, str(reference))
        try:
            binary, problem = await client.binary_in(reference, manifest), ""
        except InvalidRequestError as error:
            binary, problem = None, error.sentence
    return Inspected(manifest, decoded, binary, problem)
