"""The grammar of a ``.env`` file as people write it: the one place for who reads such a file and for who changes it.

Standard library only, like everything that ``provision/provision_smq.py`` imports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    rb"(?P<indent>(?:\xef\xbb\xbf)?[ \t]*)(?P<off>#?)[ \t]*"
    rb"(?P<export>export[ \t]+)?(?P<key>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=(?P<value>[^\r]*)\r?"
)
_QUOTED = re.compile(r"""(?:"([^"]*)"|'([^']*)')\s*(#.*)?""")
_COMMENT = re.compile(r"\s#")


@dataclass(frozen=True)
class Line:
    """One line without its line feed. ``key`` is None for a line that assigns nothing, commented out or not."""

    raw: bytes
    key: str | None = None
    active: bool = False
    value: str = ""
    indent: bytes = b""
    """A byte order mark too."""
    export: bytes = b""
    comment: str = ""
    """What follows the value, from its ``#`` on."""


def parse(content: bytes) -> list[Line]:
    """Every line of ``content``; text that is not UTF-8 comes back as lone surrogates."""
    return [_parse_line(raw) for raw in content.split(b"\n")]


def values(content: bytes) -> dict[str, str]:
    """The variables of a file. Of several lines for one variable the last non-empty one counts.

    Values may be quoted, ``export`` may precede them and a comment may follow.
    """
    found: dict[str, str] = {}
    for line in parse(content):
        if line.key is not None and line.active and (line.value or line.key not in found):
            found[line.key] = line.value
    return found


def _parse_line(raw: bytes) -> Line:
    found = _LINE.fullmatch(raw)
    if found is None:
        return Line(raw)
    value, comment = _value_and_comment(found["value"].decode("utf-8", "surrogateescape"))
    return Line(
        raw, found["key"].decode("ascii"), not found["off"], value, found["indent"], found["export"] or b"", comment
    )


def _value_and_comment(text: str) -> tuple[str, str]:
    quoted = _QUOTED.fullmatch(text.strip())
    if quoted is not None:
        return quoted[1] if quoted[1] is not None else quoted[2], quoted[3] or ""
    comment = _COMMENT.search(text)
    if comment is None:
        return text.strip(), ""
    return text[: comment.start()].strip(), text[comment.end() - 1 :].rstrip()
