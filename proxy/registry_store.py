"""What the embedded registry keeps: content by digest, and per repository which manifests and tags it has.

blobs/{hex}                                      layers, configs and manifests, byte for byte
repositories/{name}/_manifests/{hex}             the manifest's media type
repositories/{name}/_tags/{tag}                  the digest that the tag means
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy import manifests
from proxy.manifests import Manifest
from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import InvalidRequestError
from swashplate.files import make_folder, sync_folder, write_whole
from swashplate.messages import digest_hex
from swashplate.references import is_digest


class OciError(Exception):
    """An answer in the shape of the OCI Distribution Specification, which is not ours: ``{"errors": [{code, message}]}``."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_whole(path, text.encode())


class RegistryStore:
    """Files below one folder. What a method returned from survives a crash. Names and digests are checked by the caller."""

    def __init__(self, folder: Path) -> None:
        self._repositories = folder / "repositories"
        for part in (folder / "blobs", self._repositories):
            make_folder(part)
        self.blobs = BlobStore(folder / "blobs")
        for leftover in self._repositories.rglob(".incoming-*"):
            leftover.unlink(missing_ok=True)

    def _manifests(self, repository: str) -> Path:
        return self._repositories / repository / "_manifests"

    def _tags(self, repository: str) -> Path:
        return self._repositories / repository / "_tags"

    def digest_of(self, repository: str, selector: str) -> str:
        """The manifest digest that a tag or digest means in this repository; raises ``OciError`` when it has none."""
        digest: str | None = selector
        if not is_digest(selector):
            try:
                digest = (self._tags(repository) / selector).read_text()
            except FileNotFoundError:
                digest = None
        if digest is None or not (self._manifests(repository) / digest_hex(digest)).is_file():
            raise OciError(404, "MANIFEST_UNKNOWN", f"{repository} has no manifest {selector}")
        return digest

    def manifest(self, repository: str, selector: str) -> Manifest:
        digest = self.digest_of(repository, selector)
        media_type = (self._manifests(repository) / digest_hex(digest)).read_text()
        return Manifest(digest, media_type, self.blobs.read(digest))

    def put_manifest(self, repository: str, selector: str, content: bytes, media_type: str) -> tuple[str, str | None]:
        """Returns the digest, and the digest of the subject that the manifest refers to, when it does."""
        digest = sha256_digest(content)
        if is_digest(selector) and digest != selector:
            raise OciError(400, "DIGEST_INVALID", f"the manifest has digest {digest}, not {selector}")
        manifest = _decode(content)
        stated = manifest.get("mediaType")
        media_type = media_type or (stated if isinstance(stated, str) else "") or manifests.OCI_MANIFEST
        if stated is not None and stated != media_type:
            raise OciError(
                400, "MANIFEST_INVALID", f"field mediaType is {stated!r}, but Content-Type is {media_type!r}"
            )
        self._check_parts(repository, manifest)
        self.blobs.put(content)
        _write(self._manifests(repository) / digest_hex(digest), media_type)
        if not is_digest(selector):
            _write(self._tags(repository) / selector, digest)
        return digest, _subject_of(manifest)

    def _check_parts(self, repository: str, manifest: dict[str, Any]) -> None:
        """Everything that a manifest refers to must be here, else a pull of it would fail half-way."""
        for name in ("config", "layers", "manifests", "blobs"):
            value = manifest.get(name, [])
            for part in value if isinstance(value, list) else [value]:
                digest = part.get("digest") if isinstance(part, dict) else None
                if not isinstance(digest, str) or not is_digest(digest):
                    raise OciError(400, "MANIFEST_INVALID", f"field {name} has no sha256 digest but {digest!r}")
                known = (
                    (self._manifests(repository) / digest_hex(digest)).is_file()
                    if name == "manifests"
                    else self.blobs.has(digest) or bool(part.get("urls"))  # fetched from elsewhere
                )
                if not known:
                    raise OciError(400, "MANIFEST_BLOB_UNKNOWN", f"{name} refers to {digest}, which was not pushed")

    def delete_manifest(self, repository: str, selector: str) -> None:
        """A tag: only the tag. A digest: the manifest and every tag that means it."""
        digest = self.digest_of(repository, selector)
        tags = self._tags(repository)
        if not is_digest(selector):
            (tags / selector).unlink(missing_ok=True)
            sync_folder(tags)
            return
        for tag in self._tag_names(repository):
            if (tags / tag).read_text() == digest:
                (tags / tag).unlink(missing_ok=True)
        if tags.is_dir():
            sync_folder(tags)
        (self._manifests(repository) / digest_hex(digest)).unlink(missing_ok=True)
        sync_folder(self._manifests(repository))

    def tags(self, repository: str) -> list[str]:
        """In lexical order; raises ``OciError`` when there is no such repository."""
        if not self._manifests(repository).is_dir():
            raise OciError(404, "NAME_UNKNOWN", f"there is no repository {repository}")
        return self._tag_names(repository)

    def _tag_names(self, repository: str) -> list[str]:
        tags = self._tags(repository)
        return sorted(tag.name for tag in tags.iterdir() if tag.name[0] != ".") if tags.is_dir() else []

    def repositories(self) -> list[str]:
        found = self._repositories.rglob("_manifests")
        return sorted(str(folder.parent.relative_to(self._repositories)) for folder in found)

    def referrers(self, repository: str, subject: str) -> list[dict[str, Any]]:
        """Descriptors of the manifests in this repository that say they are about ``subject``."""
        found = []
        folder = self._manifests(repository)
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if entry.name[0] == ".":
                continue
            manifest = self.manifest(repository, f"sha256:{entry.name}")
            body = _decode(manifest.content)
            if _subject_of(body) != subject:
                continue
            config = body.get("config")
            kind = body.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
            descriptor = {
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": len(manifest.content),
                "artifactType": kind,
                "annotations": body.get("annotations"),
            }
            found.append({name: value for name, value in descriptor.items() if value})
        return found


def _decode(content: bytes) -> dict[str, Any]:
    try:
        manifest = manifests.decode(content, "this image")
    except InvalidRequestError as error:
        raise OciError(400, "MANIFEST_INVALID", error.sentence) from error
    if manifest.get("schemaVersion") != 2:
        raise OciError(400, "MANIFEST_INVALID", "field schemaVersion must be 2")
    return manifest


def _subject_of(manifest: dict[str, Any]) -> str | None:
    subject = manifest.get("subject")
    digest = subject.get("digest") if isinstance(subject, dict) else None
    return digest if isinstance(digest, str) else None
