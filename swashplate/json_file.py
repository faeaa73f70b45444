"""Is a file exactly one JSON value? Looked through without being built: what others wrote may be large."""

from __future__ import annotations

import codecs
import mmap
from pathlib import Path

from swashplate.errors import InvalidRequestError

PIECE = 1 << 20


def check(path: Path) -> None:
    """Raises ``InvalidRequestError`` with code ``malformed_json``. Takes a third of a second for 64 MB; call it in a thread."""
    import msgspec  # noqa: PLC0415  # most processes never need it

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            utf8 = codecs.getincrementaldecoder("utf-8")()
            for at in range(0, len(content), PIECE):
                utf8.decode(content[at : at + PIECE])
            utf8.decode(b"", final=True)
            msgspec.json.Decoder(msgspec.Raw).decode(content)
    except (ValueError, RecursionError) as error:  # an empty file cannot be mapped: that is a ``ValueError`` too
        raise InvalidRequestError(f"this is not JSON: {error}", code="malformed_json") from error
