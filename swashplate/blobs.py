"""Content-addressed files: a blob's name is the sha256 of its bytes, so it is never rewritten and can always be checked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from swashplate.errors import IntegrityError, NotFoundError
from swashplate.files import sync_folder
from swashplate.messages.base import digest_hex


def sha256_digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class BlobWriter:
    """Hashes while it writes; the blob exists only after ``commit``. Leaving the context without it leaves nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        handle, name = tempfile.mkstemp(prefix=".incoming-", dir=folder)
        self._path = Path(name)
        self._file: IO[bytes] = os.fdopen(handle, "wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.size += len(content)

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def commit(self, expected: str | None = None) -> str:
        """Make it durable under its digest. Raises ``IntegrityError`` when that is not ``expected``."""
        if expected is not None and self.digest != expected:
            raise IntegrityError(f"the content has digest {self.digest}, but {expected} was announced")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(self.folder / digest_hex(self.digest))
        sync_folder(self.folder)
        return self.digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class BlobStore:
    """A folder of blobs. Two writers of the same content do each other no harm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.glob(".incoming-*"):
            leftover.unlink(missing_ok=True)
        self._settled: dict[str, tuple[int, ...]] = {}
        """What was read and was right, and is durable (somebody else's file may not have been): by digest, what changes when
        the file does."""

    def path(self, digest: str) -> Path:
        return self.folder / digest_hex(digest)

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes. Raises ``NotFoundError``."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no blob {digest}", code="blob_unknown") from error

    def read(self, digest: str) -> bytes:
        """Raises ``NotFoundError``, and ``IntegrityError`` when the file was altered on disk."""
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no blob {digest}", code="blob_unknown") from error
        if sha256_digest(content) != digest:
            raise IntegrityError(f"the stored blob {digest} was altered on disk")
        return content

    def writer(self) -> BlobWriter:
        return BlobWriter(self.folder)

    def holds(self, content: bytes) -> bool:
        """Is exactly this stored already, and durable? What was altered on disk does not count."""
        digest = sha256_digest(content)
        path = self.path(digest)
        try:
            file = path.stat()
            seen = (file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)
            if self._settled.get(digest) == seen:
                return True
            same = path.read_bytes() == content
        except FileNotFoundError:
            same = False
        if not same:
            self._settled.pop(digest, None)
            return False
        sync_folder(self.folder)
        self._settled[digest] = seen
        return True

    def put(self, content: bytes, expected: str | None = None) -> str:
        """Store it, unless it is here already."""
        if expected is None and self.holds(content):
            return sha256_digest(content)
        with self.writer() as writer:
            writer.write(content)
            return writer.commit(expected)

    def adopt(self, file: Path, expected: str) -> str:
        """Make ``file``, which lies on the same file system, the blob ``expected``; it is moved when its digest is right.

        Raises ``IntegrityError``.
        """
        with file.open("rb") as content:
            found = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
            if found != expected:
                raise IntegrityError(f"the content has digest {found}, but {expected} was announced")
            os.fsync(content.fileno())
        file.replace(self.path(expected))
        sync_folder(self.folder)
        return expected

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)
        self._settled.pop(digest, None)

    def digests(self) -> list[str]:
        return sorted(f"sha256:{p.name}" for p in self.folder.iterdir() if len(p.name) == 64)
