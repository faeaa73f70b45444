"""A ``.env`` file that people also edit: we change the lines of our variables and not one byte more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provision import files
from swashplate.errors import ConfigurationError

_LINE = re.compile(
    rb"(?P<indent>(?:\xef\xbb\xbf)?[ \t]*)(?P<comment>#?)[ \t]*"
    rb"(?P<export>export[ \t]+)?(?P<key>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=(?P<value>[^\r]*)(?P<end>\r?)"
)
_QUOTED = re.compile(r"""(?:"([^"]*)"|'([^']*)')\s*(?:#.*)?""")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+,=~^-]*")


@dataclass(frozen=True)
class _Line:
    raw: bytes
    key: str | None = None
    active: bool = False
    value: str = ""


def read(path: Path) -> dict[str, str]:
    """The variables of the file; none when it does not exist.

    Of several lines for one variable the last non-empty one counts. Values may be quoted, ``export`` may precede them
    and a comment may follow; bytes that are not UTF-8 come back as lone surrogates.
    """
    values: dict[str, str] = {}
    for line in _parse(files.read_bytes(path) or b""):
        if line.key is not None and line.active and (line.value or line.key not in values):
            values[line.key] = line.value
    return values


def update(path: Path, values: Mapping[str, str]) -> bool:
    """Make every active line of each variable in ``values`` carry its value; return whether the content changed.

    A variable without an active line takes the place of its last commented-out line, or a new line at the end. The file
    before the change stays as ``{path}.bak``. A file that is right already is left alone, but for a mode wider than
    0600. Through a symbolic link the file it points to is written.
    """
    target = files.resolved(path)
    before = files.read_bytes(target)
    after = _updated(before or b"", values)
    if before is None:
        files.write_private(target, after)
        return True
    if after == before:
        files.tighten(target)
        return False
    owner = target.stat()
    files.write_private(path.with_name(path.name + ".bak"), before, owner=owner)
    files.write_private(target, after, owner=owner)
    return True


def _parse(content: bytes) -> list[_Line]:
    return [_parse_line(raw) for raw in content.split(b"\n")]


def _parse_line(raw: bytes) -> _Line:
    found = _LINE.fullmatch(raw)
    if found is None:
        return _Line(raw)
    value = _unquote(found["value"].decode("utf-8", "surrogateescape"))
    return _Line(raw, found["key"].decode("ascii"), not found["comment"], value)


def _unquote(text: str) -> str:
    quoted = _QUOTED.fullmatch(text.strip())
    if quoted is not None:
        return quoted[1] if quoted[1] is not None else quoted[2]
    return re.split(r"\s#", text, maxsplit=1)[0].strip()


def _quote(key: str, value: str) -> bytes:
    """Unquoted where possible: then ``grep | cut | tr``, a shell and Docker Compose all read the same."""
    if _PLAIN.fullmatch(value):
        text = value
    elif value.isprintable() and not set(value) & set('"\\$`'):
        text = f'"{value}"'
    elif value.isprintable() and "'" not in value:
        text = f"'{value}'"
    else:
        raise ConfigurationError(f"the value of {key} cannot be written to an env file")
    return text.encode("utf-8")


def _assign(line: _Line, value: bytes) -> bytes:
    found = _LINE.fullmatch(line.raw)
    assert found is not None
    return found["indent"] + (found["export"] or b"") + found["key"] + b"=" + value + found["end"]


def _updated(content: bytes, values: Mapping[str, str]) -> bytes:
    lines = _parse(content)
    raws = [line.raw for line in lines]
    new: list[bytes] = []
    for key, value in values.items():
        places = [i for i, line in enumerate(lines) if line.key == key and line.active]
        if not places:
            places = [i for i, line in enumerate(lines) if line.key == key][-1:]
        for i in places:
            if not (lines[i].active and lines[i].value == value):
                raws[i] = _assign(lines[i], _quote(key, value))
        if not places:
            new.append(key.encode("ascii") + b"=" + _quote(key, value))
    if not new:
        return b"\n".join(raws)
    end = b"\r\n" if content.count(b"\r\n") * 2 > content.count(b"\n") else b"\n"
    kept = b"\n".join(raws)
    if kept and not kept.endswith(b"\n"):
        kept += end
    return kept + b"".join(line + end for line in new)
