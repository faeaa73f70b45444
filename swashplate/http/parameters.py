"""What a request brings beside its body: each parameter knows its schema for the description, and reads itself."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from aiohttp import web

from swashplate.errors import InvalidRequestError
from swashplate.http import strict_json

Value = TypeVar("Value")
Place = Literal["query", "header", "path"]

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
LARGEST = (1 << 53) - 1
"""What JavaScript can still count with."""


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC, Generic[Value]):
    """``text`` says what it is for. Without a value in the request ``of`` answers ``default``."""

    name: str
    text: str
    default: Value
    place: Place = "query"
    required: bool = False
    example: Any = None

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value."""

    @abstractmethod
    def parsed(self, text: str) -> Value:
        """Raises ``ValueError`` saying what the value must be."""

    def of(self, request: web.Request) -> Value:
        """The value in ``request``. Raises ``InvalidRequestError`` naming the parameter."""
        if self.place == "path":
            given = [request.match_info[self.name]]
        else:
            given = (request.query if self.place == "query" else request.headers).getall(self.name, [])
        what = f"{self.place} parameter {self.name}" if self.place != "header" else f"header {self.name}"
        if len(given) > 1:
            raise InvalidRequestError(f"{what} is given {len(given)} times")
        if not given:
            if self.required:
                raise InvalidRequestError(f"{what} is required")
            return self.default
        try:
            return self.parsed(given[0])
        except ValueError as error:
            raise InvalidRequestError(f"{what} must be {error}, got {given[0][:100]!r}") from error


@dataclass(frozen=True, kw_only=True)
class Whole(Parameter[int]):
    """A whole number from ``low`` to ``high``."""

    default: int = 0
    low: int = 0
    high: int = LARGEST

    def schema(self) -> dict[str, Any]:
        found = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return found if self.required else {**found, "default": self.default}

    def parsed(self, text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise ValueError("a whole number")
        if not self.low <= int(text) <= self.high:
            raise ValueError(f"between {self.low} and {self.high}")
        return int(text)


@dataclass(frozen=True, kw_only=True)
class Seconds(Parameter[float]):
    """A time to wait, from 0 to ``high`` seconds."""

    default: float = 0.0
    high: float

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": self.high, "default": self.default}

    def parsed(self, text: str) -> float:
        if not _DECIMAL.fullmatch(text):
            raise ValueError("seconds")
        if float(text) > self.high:
            raise ValueError(f"between 0 and {self.high:g} seconds")
        return float(text)


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter[str]):
    """One of a few words; the empty text when it is not given."""

    default: str = ""
    choices: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "string", "enum": list(self.choices)}
        return {**found, "default": self.default} if self.default else found

    def parsed(self, text: str) -> str:
        if text not in self.choices:
            raise ValueError(" or ".join((", ".join(self.choices[:-1]), self.choices[-1])).removeprefix(" or "))
        return text


@dataclass(frozen=True, kw_only=True)
class Text(Parameter[str]):
    """Some text; ``pattern`` is a regular expression that JSON Schema and Python both know, for the whole of it."""

    default: str = ""
    shortest: int = 0
    longest: int = 1024
    pattern: str = ""
    format: str = ""

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "string", "maxLength": self.longest}
        if self.shortest:
            found["minLength"] = self.shortest
        if self.pattern:
            found["pattern"] = f"^{self.pattern}$"
        if self.format:
            found["format"] = self.format
        return found

    def parsed(self, text: str) -> str:
        if not self.shortest <= len(text) <= self.longest:
            raise ValueError(f"{self.shortest} to {self.longest} characters long")
        if self.pattern and not re.fullmatch(self.pattern, text):
            raise ValueError(f"like {self.pattern}")
        return text


@dataclass(frozen=True, kw_only=True)
class JsonObject(Parameter[dict[str, Any] | None]):
    """A JSON object, as text; None when it is not given."""

    default: dict[str, Any] | None = None

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def parsed(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError("a JSON object") from error
        if not isinstance(found, dict):
            raise ValueError("a JSON object")  # noqa: TRY004  # of the parameter, not of the program
        try:
            strict_json.check(text)
        except InvalidRequestError as error:
            raise ValueError(f"a JSON object ({error.sentence.removeprefix('body: ')})") from error
        return found


OFFSET = Whole(name="offset", text="How many to leave out.")


def limit_of(most: int, default: int = 100) -> Whole:
    """The parameter ``limit`` of a page that shows at most ``most``."""
    return Whole(name="limit", text=f"How many at most, up to {most}.", default=default, low=1, high=most)
