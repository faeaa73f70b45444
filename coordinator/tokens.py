"""The secret that a participant's task gets and its update must bring: derived, so it is never on the disk."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Self

from swashplate.files import write_whole


class Tokens:
    """HMAC-SHA256 over round and participant (RFC 2104): the same after a restart, useless for any other attempt."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The key is made on first use, readable by its owner alone."""
        path = folder / "token-key"
        try:
            return cls(bytes.fromhex(path.read_text()))
        except FileNotFoundError:
            key = secrets.token_bytes(32)
        write_whole(path, key.hex().encode())
        return cls(key)

    def of(self, round_id: str, proplet_id: str) -> str:
        # Neither id can hold a slash, so no two pairs give the same text.
        return hmac.new(self._key, f"{round_id}/{proplet_id}".encode(), hashlib.sha256).hexdigest()

    def matches(self, token: str, round_id: str, proplet_id: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self.of(round_id, proplet_id).encode())
