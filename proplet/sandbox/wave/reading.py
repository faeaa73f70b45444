"""From text to a value of a type that is known."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proplet.sandbox import entry
from proplet.sandbox.wave.types import (
    Bool,
    Case,
    Char,
    Enum,
    Flags,
    Float,
    Integer,
    List,
    Option,
    Record,
    Result,
    String,
    Tuple,
    Type,
    Value,
    Variant,
)

SPACE = re.compile(r"(?:[ \t\r\n]+|//[^\n]*)*")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|-?inf\b|nan\b")
LABEL = re.compile(r"%?[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*")
ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
BY_NUMBER = re.compile(r"u\{([0-9a-fA-F]{1,6})\}")
SURROGATES = range(0xD800, 0xE000)
SHOWN = 20


class WaveError(Exception):
    """The text is not what its type wants; the message names the character, counted from 1."""


def read(kind: Type, text: str) -> Value:
    """The value; raises ``WaveError``."""
    reader = _Reader(text)
    reader.space()
    found = reader.value(kind)
    reader.space()
    if reader.at < len(text):
        raise reader.unexpected("nothing more")
    return found


class _Reader:
    """``at`` is where it is in ``text``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0

    def value(self, kind: Type) -> Value:  # one line for each type
        match kind:
            case Bool():
                return self._choice(kind, ("false", "true")) == "true"
            case Integer():
                return self._integer(kind)
            case Float():
                return self._float(kind)
            case Char():
                return self._char()
            case String():
                return self._string()
            case List():
                return [self.value(kind.element) for _ in self._items("[", "]")]
            case Tuple():
                return self._tuple(kind)
            case Record():
                return self._record(kind)
            case Flags():
                return self._flags(kind)
            case Enum():
                return self._choice(kind, kind.names)
            case Variant():
                return self._case(kind)
            case Option():
                return self._flattened(kind, "some", kind.some)
            case Result():
                return self._flattened(kind, "ok", kind.ok)

    def space(self) -> None:
        self.at = self._matched(SPACE).end()

    def unexpected(self, wanted: str, at: int | None = None) -> WaveError:
        at = self.at if at is None else at
        rest = self._text[at:]
        found = f"not {rest[:SHOWN]!r}" if rest else "but the text ends"
        return WaveError(f"{wanted} is expected at character {at + 1}, {found}")

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self.at)
        assert found is not None, "for patterns that match nothing too"
        return found

    def _takes(self, token: str) -> bool:
        if not self._text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def _needs(self, token: str) -> None:
        if not self._takes(token):
            raise self.unexpected(f"{token!r}")

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        """One turn for each item, between which it reads the commas; one may stand after the last."""
        self._needs(opening)
        self.space()
        while not self._takes(closing):
            yield
            self.space()
            if not self._takes(","):
                if not self._text.startswith(closing, self.at):
                    raise self.unexpected(f"',' or {closing!r}")
                continue
            self.space()

    def _number(self, wanted: str) -> re.Match[str]:
        found = NUMBER.match(self._text, self.at)
        if found is None:
            raise self.unexpected(wanted)
        return found

    def _integer(self, kind: Integer) -> int:
        found = self._number(f"a whole number of type {kind}")
        if found[1] or found[2] or found[0].endswith(("inf", "nan")):
            raise self.unexpected(f"a whole number of type {kind}")
        digits = found[0]
        if len(digits) > SHOWN or not kind.least <= int(digits) <= kind.most:
            raise WaveError(f"{digits[:SHOWN]} at character {self.at + 1} is out of the range of {kind}")
        self.at = found.end()
        return int(digits)

    def _float(self, kind: Float) -> float:
        found = self._number(f"a number of type {kind}")
        try:
            number = entry.number(f"f{kind.bits}", found[0])
        except OverflowError as error:
            raise WaveError(f"{found[0][:SHOWN]} at character {self.at + 1} is out of the range of {kind}") from error
        self.at = found.end()
        return number

    def _char(self) -> str:
        self._needs("'")
        if self._text.startswith("'", self.at):
            raise self.unexpected("a character")
        found = self._character("'")
        self._needs("'")
        return found

    def _string(self) -> str:
        self._needs('"')
        found: list[str] = []
        while not self._takes('"'):
            found.append(self._character('"'))
        return "".join(found)

    def _character(self, closing: str) -> str:
        if self.at >= len(self._text):
            raise self.unexpected(closing)
        one = self._text[self.at]
        if one == "\n":
            raise self.unexpected(r"\n instead of a line break")
        if one != "\\":
            self.at += 1
            return one
        after = self._text[self.at + 1 : self.at + 2]
        if after in ESCAPED:
            self.at += 2
            return ESCAPED[after]
        numbered = BY_NUMBER.match(self._text, self.at + 1)
        if numbered is None or (code := int(numbered[1], 16)) > 0x10FFFF or code in SURROGATES:
            raise self.unexpected(r"an escape like \n or \u{e9}")
        self.at = numbered.end()
        return chr(code)

    def _label(self, wanted: str) -> str:
        found = LABEL.match(self._text, self.at)
        if found is None:
            raise self.unexpected(wanted)
        self.at = found.end()
        return found[0].removeprefix("%")

    def _choice(self, kind: Type, names: tuple[str, ...], what: str = "") -> str:
        at, wanted = self.at, what or f"{kind}"
        found = self._label(wanted)
        if found not in names:
            raise self.unexpected(wanted, at)
        return found

    def _tuple(self, kind: Tuple) -> tuple[Value, ...]:
        found: list[Value] = []
        for _ in self._items("(", ")"):
            if len(found) == len(kind.elements):
                raise self.unexpected("')'")
            found.append(self.value(kind.elements[len(found)]))
        if len(found) < len(kind.elements):
            raise self.unexpected(f"a value of type {kind.elements[len(found)]}", self.at - 1)
        return tuple(found)

    def _record(self, kind: Record) -> dict[str, Value]:
        found: dict[str, Value] = {}
        types = dict(kind.fields)
        empty = re.compile(r"\{[ \t\r\n]*:[ \t\r\n]*\}").match(self._text, self.at)
        if empty is not None:
            self.at = empty.end()
        else:
            for _ in self._items("{", "}"):
                left = tuple(name for name in types if name not in found)
                name = self._choice(kind, left, f"a field that is not there yet ({', '.join(left) or 'none is left'})")
                self.space()
                self._needs(":")
                self.space()
                found[name] = self.value(types[name])
        for name, field in kind.fields:
            if name not in found:
                if not isinstance(field, Option):
                    raise self.unexpected(f"the field {name}", self.at - 1)
                found[name] = Case("none")
        return {name: found[name] for name in types}

    def _flags(self, kind: Flags) -> frozenset[str]:
        found: set[str] = set()
        for _ in self._items("{", "}"):
            left = tuple(name for name in kind.names if name not in found)
            found.add(self._choice(kind, left, f"a flag that is not there yet ({', '.join(left) or 'none is left'})"))
        return frozenset(found)

    def _case(self, kind: Variant | Option | Result) -> Case:
        name = self._choice(kind, tuple(name for name, _ in kind.cases))
        payload = dict(kind.cases)[name]
        if payload is None:
            return Case(name)
        self.space()
        self._needs("(")
        self.space()
        found = self.value(payload)
        self.space()
        self._needs(")")
        return Case(name, found)

    def _flattened(self, kind: Option | Result, name: str, payload: Type | None) -> Case:
        """Its usual case may be left out: ``5`` is ``some(5)`` and ``ok(5)``, unless that is again one of the two."""
        label = LABEL.match(self._text, self.at)
        named = label is not None and label[0] in dict(kind.cases)
        if named or payload is None or isinstance(payload, Option | Result):
            return self._case(kind)
        return Case(name, self.value(payload))
