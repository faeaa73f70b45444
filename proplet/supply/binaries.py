"""The proplet's binaries on disk, by digest: used again without a request, dropped least recently used first."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from swashplate import logging
from swashplate.blobs import BlobStore

log = logging.get("binaries")


class Binaries:
    """``modules`` is the folder of compiled modules, which go with their binary."""

    def __init__(self, folder: Path, modules: Path, limit: int) -> None:
        self.store = BlobStore(folder)
        self.limit = limit
        self._modules = modules
        self._used: Counter[str] = Counter()

    def has(self, digest: str) -> bool:
        return self.store.has(digest)

    def path(self, digest: str) -> Path:
        return self.store.path(digest)

    @contextlib.contextmanager
    def in_use(self, digest: str) -> Iterator[None]:
        """Keep ``digest`` from being dropped meanwhile."""
        self._used[digest] += 1
        try:
            yield
        finally:
            self._used[digest] -= 1
            if not self._used[digest]:
                del self._used[digest]

    def touch(self, digest: str) -> None:
        """Used just now."""
        with contextlib.suppress(OSError):
            os.utime(self.path(digest))

    def drop_unused(self, digest: str) -> None:
        if digest not in self._used:
            self.drop(digest)

    def drop(self, digest: str) -> None:
        self.store.remove(digest)
        for compiled in self._modules.glob(f"{digest.removeprefix('sha256:')}-*"):
            compiled.unlink(missing_ok=True)

    def make_room(self) -> None:
        """Drop what was used longest ago until the limit holds; what is in use stays."""
        known = [(self.path(digest).stat(), digest) for digest in self.store.digests()]
        total = sum(stat.st_size for stat, _ in known)
        for stat, digest in sorted(known, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self.limit:
                return
            if digest not in self._used:
                log.info("dropping binary", digest=digest, size=stat.st_size)
                self.drop(digest)
                total -= stat.st_size
