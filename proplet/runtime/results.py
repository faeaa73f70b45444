"""What a run gave: a value that fits a message, or a file of JSON that is uploaded."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json, to_json

from proplet.runtime.task_folder import TaskFolder
from proplet.sandbox.frames import Answer
from proplet.work.outcome import Large, Success
from swashplate import json_file
from swashplate.blobs import BlobWriter
from swashplate.errors import InvalidRequestError, SwashplateError, TooLargeError
from swashplate.messages import digest_hex

MOST_IN_MESSAGE = 192 * 1024
"""Bytes of JSON."""
LAST_BYTES = MOST_IN_MESSAGE // 8
"""Of a daemon's stdout: as JSON a byte can take six."""


def check_size(results: Any) -> None:
    """Raises ``TooLargeError`` for what does not fit a message."""
    if len(to_json(results)) > MOST_IN_MESSAGE:
        raise TooLargeError(
            f"the result is over the limit of {MOST_IN_MESSAGE} bytes of a message", code="result_too_large"
        )


def small(answer: Answer, folder: TaskFolder, *, daemon: bool) -> Success:
    """``/out/result.json`` when there is one, else what the function returned, else stdout as it is.

    A daemon may have printed for months: the last of it is its result. Raises ``TooLargeError`` for what does not fit a
    message, ``InvalidRequestError`` with code ``result_invalid``.
    """
    written = folder.result_file(MOST_IN_MESSAGE)
    results: Any
    if written is not None:
        try:
            results = from_json(written, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidRequestError(f"/out/result.json is not JSON: {error}", code="result_invalid") from error
    elif answer.text is not None:
        results = answer.text
    else:
        limit = LAST_BYTES if daemon else MOST_IN_MESSAGE
        results = folder.stdout(limit, last=daemon).decode(errors="replace")
    check_size(results)
    return Success(results)


def large(answer: Answer, folder: TaskFolder, writer: BlobWriter) -> Large:
    """The same as a file; to be called in a thread. Raises ``SwashplateError``."""
    try:
        with writer:
            written = folder.result_pieces()
            for piece in written or _as_text(answer.text, folder):
                writer.write(piece)
            writer.commit()
            if written is not None:
                json_file.check(writer.folder / digest_hex(writer.digest))
    except InvalidRequestError as error:
        raise InvalidRequestError(f"/out/result.json: {error.sentence}", code="result_invalid") from error
    except OSError as error:
        raise SwashplateError(f"the result cannot be kept: {error}", code="result_not_kept", retryable=True) from error
    return Large(writer.digest, writer.size)


def _as_text(returned: str | None, folder: TaskFolder) -> Iterator[bytes]:
    """A JSON text."""
    yield b'"'
    if returned is not None:
        yield json.dumps(returned, ensure_ascii=False)[1:-1].encode(errors="replace")
    else:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in folder.stdout_pieces():
            yield json.dumps(decoder.decode(piece), ensure_ascii=False)[1:-1].encode()
        yield json.dumps(decoder.decode(b"", final=True), ensure_ascii=False)[1:-1].encode()
    yield b'"'
