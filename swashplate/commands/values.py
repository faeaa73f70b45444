"""What people type for an option, as the API has it. Each raises what makes it a wrong usage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import typer

_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


def duration(text: str | float) -> float:
    """Seconds out of ``30``, ``30s``, ``1m30s``, ``2h``."""
    from pydantic import TypeAdapter, ValidationError

    from swashplate.settings import Seconds

    try:
        found: float = TypeAdapter(Seconds).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(f"{text!r} is not a duration such as 30s, 1m30s or 2h") from error
    return found


def size(text: str | int) -> int:
    """Bytes out of ``1048576``, ``64MiB``, ``64M``."""
    found = re.fullmatch(r"([0-9]+)\s*([kmgt]?i?)b?", str(text).strip().lower())
    if found is None or found[2] not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not a size such as 1048576, 64MiB or 1G")
    return int(found[1]) * _UNITS[found[2]]


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """``K=V`` each."""
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{option} takes KEY=VALUE, got {text!r}")
        found[key] = value
    return found


def typed_pairs(given: Iterable[str], option: str) -> dict[str, Any]:
    """``K=text`` or ``K:=JSON`` each."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key.rstrip(":") or not equals:
            raise typer.BadParameter(f"{option} takes KEY=TEXT or KEY:=JSON, got {text!r}")
        found[key.removesuffix(":")] = as_json(value, f"{option} {text}") if key.endswith(":") else value
    return found


def as_json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is not JSON: {error}") from error
