"""What people type for an option, as the API has it. Each raises what makes it a wrong usage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import typer


def duration(text: str | float) -> float:
    """Seconds out of ``30``, ``30s``, ``1m30s``, ``2h``."""
    from swashplate import limits

    try:
        return limits.duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def size(text: str | int) -> int:
    """Bytes out of ``1048576``, ``64MiB``, ``64M``."""
    from swashplate import limits

    try:
        return limits.size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def limits(given: Iterable[str]) -> dict[str, float]:
    """The fields of ``RunLimits`` out of ``memory=64MiB`` each."""
    from swashplate import limits

    found: dict[str, float] = {}
    for text in given:
        try:
            found |= limits.read(pairs([text], "--limit"))
        except ValueError as error:
            raise typer.BadParameter(f"--limit {text}: {error}") from error
    return found


def directory(text: str) -> dict[str, Any]:
    """One of ``GuestCapabilities.directories`` out of ``NAME:/path`` or ``NAME:/path:rw``."""
    found = re.fullmatch(r"([^:]+):(/[^:]*)(:rw|:ro)?", text)
    if found is None:
        raise typer.BadParameter(f"--allow-dir takes NAME:/path or NAME:/path:rw, got {text!r}")
    return {"name": found[1], "path": found[2], "write": found[3] == ":rw"}


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
