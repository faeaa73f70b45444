"""The embedded registry against the OCI Distribution Specification: push, pull, and what it must refuse."""

from __future__ import annotations

import json

import pytest

from swashplate.blobs import sha256_digest

BINARY = b"\0asm" + bytes(range(256)) * 40
UNKNOWN = "sha256:" + "0" * 64


def code(body: bytes) -> str:
    return json.loads(body)["errors"][0]["code"]


async def begin(registry, repository: str = "app") -> str:
    status, headers, _ = await registry.ask("POST", f"/v2/{repository}/blobs/uploads/")
    assert status == 202
    return headers["Location"]


async def test_the_version_check_answers(registry):
    status, headers, _ = await registry.ask("GET", "/v2/")
    assert (status, headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")
    assert (await registry.ask("GET", "/v2"))[0] == 200
    assert (await registry.ask("GET", "/health"))[0] == 200


async def test_a_pushed_image_comes_back_byte_for_byte(registry):
    from tests.proxy.conftest import image_manifest

    manifest = image_manifest(BINARY)
    assert await registry.push("group/app", "v1", BINARY) == sha256_digest(manifest)
    for selector in ("v1", sha256_digest(manifest)):
        status, headers, body = await registry.ask("GET", f"/v2/group/app/manifests/{selector}")
        assert (status, body) == (200, manifest)
        assert headers["Docker-Content-Digest"] == sha256_digest(manifest)
        assert headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
        status, headers, body = await registry.ask("HEAD", f"/v2/group/app/manifests/{selector}")
        assert (status, headers["Content-Length"], body) == (200, str(len(manifest)), b"")
    assert (await registry.ask("GET", f"/v2/group/app/blobs/{sha256_digest(BINARY)}"))[2] == BINARY
