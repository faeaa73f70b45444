"""A ``.env`` file that people also edit: we change the lines of our variables and not one byte more.

What we write is what the plainest reader understands, ``grep '^KEY=' .env | cut -d = -f 2 | tr -d '"'``: no comment
behind the value, no carriage return, no quotes that are not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from provision import files
from swashplate import dotenv
from swashplate.errors import ConfigurationError

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+,=~^-]*")
_SPECIAL = frozenset('"\\$`')


def read(path: Path) -> dict[str, str]:
    """The variables of the file, by the rules of ``swashplate.dotenv``; none when it does not exist."""
    return dotenv.values(files.read_bytes(path) or b"")


def check(path: Path) -> None:
    """Raise now what ``update`` would raise later, for who makes something in between that only the file will remember."""
    files.check_writable(path)
    files.read_bytes(files.resolved(path))
    backup = _backup(path)
    if backup.is_dir():
        raise ConfigurationError(f"{backup} is a directory; the backup of {path} goes there")


def update(path: Path, values: Mapping[str, str], *, example: Path | None = None) -> bool:
    """Make every active line of each variable in ``values`` carry its value; return whether the content changed.

    A variable without an active line takes the place of its last commented-out line, or a new line at the end. A comment
    behind an old value moves to a line of its own above. The file before the change stays as ``{path}.bak``. A file that
    is right already is left alone, but for a mode wider than 0600. Through a symbolic link the file it points to is
    written. A file that does not exist begins as a copy of ``example``, if there is one.
    """
    target = files.resolved(path)
    before = files.read_bytes(target)
    if before is None:
        files.write_private(target, _updated((files.read_bytes(example) if example else None) or b"", values))
        return True
    after = _updated(before, values)
    if after == before:
        files.tighten(target)
        return False
    owner = target.stat()
    files.write_private(_backup(path), before, owner=owner)
    files.write_private(target, after, owner=owner)
    return True


def _backup(path: Path) -> Path:
    return path.with_name(path.name + ".bak")


def _quoted(key: str, value: str) -> bytes:
    """Unquoted where possible: then ``grep | cut | tr``, a shell and Docker Compose all read the same."""
    if _PLAIN.fullmatch(value):
        text = value
    elif value.isprintable() and not set(value) & _SPECIAL:
        text = f'"{value}"'
    elif value.isprintable() and "'" not in value:
        text = f"'{value}'"
    else:
        raise ConfigurationError(f"the value of {key} cannot be written to an env file")
    return text.encode("utf-8")


def _assigned(line: dotenv.Line, key: str, value: str) -> list[bytes]:
    """The lines that take the place of ``line``: itself when it says ``value`` already, in a form that all understand."""
    start = line.indent + line.export + key.encode("ascii") + b"="
    wanted = start + _quoted(key, value)
    if line.active and line.value == value and line.raw in {wanted, start + b'"' + value.encode() + b'"'}:
        return [line.raw]
    if not line.comment:
        return [wanted]
    bare = line.indent.removeprefix(b"\xef\xbb\xbf")
    return [line.indent + line.comment.encode("utf-8", "surrogateescape"), bare + wanted[len(line.indent) :]]


def _updated(content: bytes, values: Mapping[str, str]) -> bytes:
    lines = dotenv.parse(content)
    raws = [[line.raw] for line in lines]
    new: list[bytes] = []
    for key, value in values.items():
        places = [i for i, line in enumerate(lines) if line.key == key and line.active]
        if not places:
            places = [i for i, line in enumerate(lines) if line.key == key][-1:]
        for i in places:
            raws[i] = _assigned(lines[i], key, value)
        if not places:
            new.append(key.encode("ascii") + b"=" + _quoted(key, value) + b"\n")
    kept = b"\n".join(raw for place in raws for raw in place)
    if new and kept and not kept.endswith(b"\n"):
        windows = content.count(b"\r\n") * 2 > content.count(b"\n") and lines[-1].key not in values
        kept += b"\r\n" if windows else b"\n"
    return kept + b"".join(new)
