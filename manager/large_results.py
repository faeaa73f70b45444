"""Results that are too large for a message: files of JSON that proplets upload before they say how an attempt ended."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from manager.attempt_files import AttemptFiles
from manager.latent import calls
from manager.state.ledger import Ledger
from manager.state.records import Attempt, CallKey, Invocation, ResultKey
from manager.state.results import Reference, parts
from manager.state.states import InvocationState
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

    def token(self, held: Attempt | Invocation) -> str:
        """What the proplet that holds an attempt, or was given a call, proves itself with."""
        key = calls.key_of(held) if isinstance(held, Invocation) else held.key
        return self._token(key, held.proplet_id or "")

    def _token(self, key: ResultKey, proplet_id: str) -> str:
        text = "\0".join([*map(str, key), proplet_id]).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def check(self, key: ResultKey, proplet_id: str, token: str) -> None:
        """Raises ``ForbiddenError`` for who was never given the attempt or call, ``ConflictError`` when it is over."""
        if not hmac.compare_digest(token.encode(), self._token(key, proplet_id).encode()):
            raise ForbiddenError("the token is not that of this attempt or call and proplet", code="token_mismatch")
        self._check_open(key, proplet_id)

    def _check_open(self, key: ResultKey, proplet_id: str) -> None:
        if isinstance(key, CallKey):
            call = self._ledger.invocation(key.place)
            if call is None or call.state is not InvocationState.RUNNING or calls.key_of(call) != key:
                raise ConflictError(f"invocation {key.turn} of task {key.task_id} is over", code="invocation_over")
            return
        attempt = self._ledger.attempt(key)
        if attempt is None or attempt.state.ended or attempt.proplet_id != proplet_id:
            raise ConflictError(f"attempt {key.number} of task {key.task_id} is over", code="attempt_over")

    async def writer(self, key: ResultKey) -> BlobWriter:
        """Where its bytes go; to be left in any case."""
        return BlobWriter(await asyncio.to_thread(self._files.made, key))

    async def keep(self, key: ResultKey, proplet_id: str, writer: BlobWriter, digest: str) -> None:
        """Make durable what was written. Only the last upload of an attempt or invocation is kept.

        Raises ``InvalidRequestError`` for another digest or what is not JSON, ``ConflictError`` when it is over.
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

    def stored(self, key: ResultKey, digest: str, size: int) -> str | None:
        """The result as it is stored; None when it was not uploaded."""
        try:
            there = (self._files.of(key) / digest_hex(digest)).stat().st_size
        except (OSError, ValueError):  # no file has such a name, or none is there
            return None
        return Reference(key.task_id, key.place, digest, size).text() if there == size else None

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
        return self._files.root / part.task_id / part.place / digest_hex(part.digest)


Stored = Callable[[ResultKey, str, int], str | None]
