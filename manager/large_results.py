"""Results that are too large for a message: files of JSON that proplets upload before they say how an attempt ended."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from manager.attempt_files import AttemptFiles
from manager.state.ledger import Ledger
from manager.state.records import Attempt, AttemptKey
from manager.state.results import Reference, parts
from swashplate import json_file
from swashplate.blobs import BlobWriter
from swashplate.errors import ConflictError, ForbiddenError, IntegrityError, InvalidRequestError
from swashplate.files import write_whole
from swashplate.messages.base import digest_hex

PIECE = 1 << 20


def secret_in(folder: Path) -> bytes:
    """The secret that upload tokens are made with; it outlives a restart, as the attempts do."""
    path = folder / "uploads.key"
    if not path.exists():
        write_whole(path, secrets.token_bytes(32))
    return path.read_bytes()


class LargeResults:
    """``limit``: bytes of one result."""

    def __init__(self, files: AttemptFiles, ledger: Ledger, secret: bytes, limit: int) -> None:
        self._files = files
        self._ledger = ledger
        self._secret = secret
        self.limit = limit

    def token(self, attempt: Attempt) -> str:
        """What the proplet that holds an attempt proves itself with."""
        return self._token(attempt.key, attempt.proplet_id or "")

    def _token(self, key: AttemptKey, proplet_id: str) -> str:
        text = f"{key.task_id}\0{key.number}\0{proplet_id}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def check(self, key: AttemptKey, proplet_id: str, token: str) -> None:
        """Raises ``ForbiddenError`` for who was never given the attempt, ``ConflictError`` when it is over."""
        if not hmac.compare_digest(token.encode(), self._token(key, proplet_id).encode()):
            raise ForbiddenError("the token is not that of this attempt and proplet", code="token_mismatch")
        self._check_open(key, proplet_id)

    def _check_open(self, key: AttemptKey, proplet_id: str) -> None:
        attempt = self._ledger.attempt(key)
        if attempt is None or attempt.state.ended or attempt.proplet_id != proplet_id:
            raise ConflictError(f"attempt {key.number} of task {key.task_id} is over", code="attempt_over")

    async def writer(self, key: AttemptKey) -> BlobWriter:
        """Where its bytes go; to be left in any case."""
        return BlobWriter(await asyncio.to_thread(self._files.made, key))

    async def keep(self, key: AttemptKey, proplet_id: str, writer: BlobWriter, digest: str) -> None:
        """Make durable what was written. Only the last upload of an attempt is kept.

        Raises ``InvalidRequestError`` for another digest or what is not JSON, ``ConflictError`` when the attempt is over.
        """
        self._check_open(key, proplet_id)
        await asyncio.to_thread(self._keep, self._files.of(key), writer, digest)

    @staticmethod
    def _keep(folder: Path, writer: BlobWriter, digest: str) -> None:
        path = folder / digest_hex(digest)
        try:
            writer.commit(digest)
        except IntegrityError as error:
            raise InvalidRequestError(error.sentence, code="digest_mismatch") from error
        try:
            json_file.check(path)
        except InvalidRequestError:
            path.unlink()
            raise
        for other in folder.iterdir():
            if len(other.name) == len(path.name) and other != path:
                other.unlink()

    def stored(self, key: AttemptKey, digest: str, size: int) -> str | None:
        """The result as it is stored; None when it was not uploaded."""
        try:
            there = (self._files.of(key) / digest_hex(digest)).stat().st_size
        except OSError:
            return None
        return Reference(key.task_id, key.number, digest, size).text() if there == size else None

    async def bytes_of(self, stored: str) -> AsyncIterator[bytes]:
        """The JSON of a stored result, a piece at a time. Raises ``IntegrityError`` when a file is not what it was."""
        for part in parts(stored):
            if isinstance(part, str):
                yield part.encode()
                continue
            left = part.size
            with await asyncio.to_thread(self.path(part).open, "rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE):
                    left -= len(piece)
                    yield piece
            if left:
                raise IntegrityError(f"the stored result {part.digest} was altered on disk")

    def path(self, part: Reference) -> Path:
        return self._files.of(AttemptKey(part.task_id, part.number)) / digest_hex(part.digest)


Stored = Callable[[AttemptKey, str, int], str | None]
