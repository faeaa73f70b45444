"""A manifest, and what it says about the WASM binary that it carries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from swashplate.errors import InvalidRequestError
from swashplate.references import is_digest
from swashplate.words import counted

MAX_MANIFEST_BYTES = 4 << 20

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ARTIFACT_TYPE = "application/vnd.unknown.artifact.v1"
"""What an artifact is whose maker did not say; as the oras command writes it."""
EMPTY_CONFIG = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2,
    "data": "e30=",
}
"""``{}``, for artifacts without a configuration (OCI image manifest specification)."""
ACCEPTED = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"

_WASM_TYPES = ("application/wasm", "application/vnd.wasm", "application/vnd.bytecodealliance.wasm")
_WASM_PLATFORMS = ("wasm", "wasm32", "wasi", "wasip1", "wasip2")


@dataclass(frozen=True)
class Manifest:
    """What a registry has under a tag or a digest, byte for byte."""

    digest: str
    media_type: str
    content: bytes


@dataclass(frozen=True)
class Binary:
    """The layer of an image that holds the WASM binary; ``size`` in bytes."""

    digest: str
    size: int
    media_type: str

    @property
    def says_wasm(self) -> bool:
        return self.media_type.startswith(_WASM_TYPES)


def _invalid(image: str, reason: str, hint: str | None = None) -> InvalidRequestError:
    return InvalidRequestError(f"cannot use the manifest of {image}: {reason}", code="invalid_manifest", hint=hint)


def decode(content: bytes, image: str) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _invalid(image, f"it is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise _invalid(image, "it is not a JSON object")
    return manifest


def is_index(manifest: dict[str, Any]) -> bool:
    return manifest.get("mediaType") in (OCI_INDEX, DOCKER_LIST) or (
        "manifests" in manifest and "layers" not in manifest
    )


def entry_of(index: dict[str, Any], image: str) -> str:
    """The digest of the one manifest in an image index that is for WASM; raises when there is not exactly one."""
    entries = _objects(index.get("manifests"))
    wasm = [entry for entry in entries if _is_wasm_platform(entry.get("platform"))]
    chosen = wasm or (entries if len(entries) == 1 else [])
    if len(chosen) != 1:
        raise _invalid(
            image,
            f"it is an index of {counted(len(entries), 'image')}, {len(wasm) or 'none'} of them for WASM",
            "name the digest of one image",
        )
    digest = chosen[0].get("digest")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _invalid(image, f"its entry has no sha256 digest but {digest!r}")
    return digest


def _is_wasm_platform(platform: Any) -> bool:
    return isinstance(platform, dict) and (
        platform.get("architecture") in _WASM_PLATFORMS or platform.get("os") in _WASM_PLATFORMS
    )


def binary_of(manifest: dict[str, Any], image: str) -> Binary:
    """The layer with a WASM media type, else the largest layer: an image that was pushed without saying what it holds."""
    layers = [_layer(entry, image) for entry in _objects(manifest.get("layers"))]
    if not layers:
        raise _invalid(image, "it has no layers")
    return max([layer for layer in layers if layer.says_wasm] or layers, key=lambda layer: layer.size)


def _layer(entry: dict[str, Any], image: str) -> Binary:
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType", "")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _invalid(image, f"a layer has no sha256 digest but {digest!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _invalid(image, f"layer {digest} has no size but {size!r}")
    return Binary(digest, size, media_type if isinstance(media_type, str) else "")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
