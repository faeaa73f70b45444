"""Large results, kept until the manager has them: a folder for each attempt or invocation, with one file of JSON named by
its digest.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from proplet.work.outgoing import Ref
from swashplate.blobs import BlobWriter
from swashplate.files import make_folder
from swashplate.messages import digest_hex


class ResultFiles:
    def __init__(self, root: Path) -> None:
        self._root = root

    def writer(self, ref: Ref) -> BlobWriter:
        folder = self._folder(ref)
        make_folder(folder)
        return BlobWriter(folder)

    def path(self, ref: Ref, digest: str) -> Path:
        return self._folder(ref) / digest_hex(digest)

    def remove(self, ref: Ref) -> None:
        shutil.rmtree(self._folder(ref), ignore_errors=True)

    def keep_only(self, refs: Iterable[Ref]) -> None:
        """An earlier life may have left others."""
        kept = {self._folder(ref).name for ref in refs}
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, ref: Ref) -> Path:
        named = f"{_hashed(ref.task_id)}-{ref.attempt}"
        return self._root / (f"{named}-{_hashed(ref.invocation)}" if ref.invocation else named)


def _hashed(told: str) -> str:
    """A name for a file in the place of one that others gave."""
    return hashlib.sha256(told.encode()).hexdigest()[:32]
