"""What a JSON parser lets pass and we do not, because two readers of the same text could see two different things.

A key given twice (every parser picks its own), NaN and Infinity (not JSON), NUL in a text (C strings end there, and
PostgreSQL refuses it), more than 64 levels. Half of a surrogate pair and control characters the parser refuses itself.
"""

from __future__ import annotations

import json
import re

from swashplate.errors import InvalidRequestError

MAX_DEPTH = 64

_PIECE = 1 << 20
_NEXT = re.compile(r'["\[\]{}NI]')
"""Outside of texts, N and I begin nothing but NaN and Infinity."""
_COLON = re.compile(r"[ \t\r\n]*:")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check(text: str) -> None:
    """Look through ``text``, which must be valid JSON otherwise; raises ``InvalidRequestError`` naming field and reason.

    Takes time in proportion to the text, but never holds the interpreter for long: it can run in a thread beside the
    event loop.
    """
    suspect = "\\u0000" in text
    seen: list[set[str] | None] = []
    names: list[str] = []
    at, length = 0, len(text)
    while at < length:
        found = _NEXT.search(text, at, at + _PIECE)
        if found is None:
            at += _PIECE
            continue
        at = found.end()
        match text[at - 1]:
            case '"':
                end = _end_of_text(text, at)
                key = seen[-1] if seen else None
                inside = text[at:end] if key is not None or suspect else ""
                if suspect and _NUL.search(inside):
                    raise _refused(names, "a text must not contain NUL")
                at = end + 1
                if key is not None and _COLON.match(text, at):
                    names[-1] = name = json.loads(f'"{inside}"') if "\\" in inside else inside
                    if name in key:
                        raise _refused(names, "the key is given twice")
                    key.add(name)
            case "{" | "[" as opened:
                if len(seen) == MAX_DEPTH:
                    raise _refused(names, f"nested deeper than {MAX_DEPTH} levels")
                seen.append(set() if opened == "{" else None)
                names.append("")
            case "}" | "]":
                seen.pop()
                names.pop()
            case _:
                raise _refused(names, "numbers must be finite")


def _end_of_text(text: str, start: int) -> int:
    """Where the quotation mark is that ends the text that begins at ``start``."""
    end = text.find('"', start)
    while end > start and text[end - 1] == "\\":
        first = end - 1
        while first > start and text[first - 1] == "\\":
            first -= 1
        if (end - first) % 2 == 0:
            break
        end = text.find('"', end + 1)
    return end if end >= 0 else len(text)


def _refused(names: list[str], reason: str) -> InvalidRequestError:
    where = ".".join(name[:64] for name in names[:8] if name)
    return InvalidRequestError(f"body: field {where}: {reason}" if where else f"body: {reason}")
