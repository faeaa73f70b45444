"""A binary on its way here: what was announced of it, and the file that its chunks are put into, in any order."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from swashplate.errors import IntegrityError
from swashplate.messages import BlobInfo


@dataclass(frozen=True)
class Wanted:
    """A binary as the manager described it; ``image`` is empty for one that the manager itself holds, and ``wasm`` is not set
    for what no worker will ever load.
    """

    digest: str
    size: int
    image: str = ""
    wasm: bool = True

    @property
    def name(self) -> str:
        return self.image or self.digest


class Assembly:
    """One binary on its way: a file of its final size and the set of chunks that are missing."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        self._wanted = wanted
        handle, name = tempfile.mkstemp(prefix=".incoming-", dir=folder)
        self.file, self.path = handle, Path(name)
        os.ftruncate(handle, wanted.size)
        self._chunk_size = 0
        self.chunks = 0
        self.missing: set[int] = set()
        self.ignored = 0
        self._early: dict[int, bytes] = {}
        self._early_bytes = 0

    @property
    def described(self) -> bool:
        return self._chunk_size > 0

    @property
    def complete(self) -> bool:
        return self.described and not self.missing

    def describe(self, info: BlobInfo) -> None:
        """Raises ``IntegrityError`` when the description contradicts what the manager said or itself."""
        if self.described:
            return
        size = self._wanted.size
        if info.size != size or info.chunk_size <= 0 or info.chunks != -(-size // info.chunk_size):
            raise IntegrityError(
                f"{self._wanted.name} should have {size} bytes, the proxy describes {info.size} bytes in {info.chunks}"
                f" chunks of {info.chunk_size}",
                code="blob_info_invalid",
            )
        self._chunk_size, self.chunks = info.chunk_size, info.chunks
        self.missing = set(range(info.chunks))
        early, self._early = self._early, {}
        for index, content in early.items():
            self.put(index, content)

    def put(self, index: int, content: bytes) -> bool:
        """Take a chunk; False when it is not news. A chunk of a wrong index or size is ignored and counted."""
        if not self.described:
            return self._keep_early(index, content)
        offset = index * self._chunk_size
        if not 0 <= index < self.chunks or len(content) != min(self._chunk_size, self._wanted.size - offset):
            self.ignored += 1
            return False
        if index not in self.missing:
            return False
        os.pwrite(self.file, content, offset)
        self.missing.discard(index)
        return True

    def _keep_early(self, index: int, content: bytes) -> bool:
        """Chunks may overtake the description."""
        if not content or index in self._early or self._early_bytes + len(content) > self._wanted.size:
            self.ignored += 1
            return False
        self._early[index] = content
        self._early_bytes += len(content)
        return True

    def close(self) -> None:
        os.close(self.file)
        self.path.unlink(missing_ok=True)
