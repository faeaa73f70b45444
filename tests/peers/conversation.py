"""Recorded conversations: what each side says, with placeholders for what differs from run to run.

A step is an object with one key. The other side of the recording is played; ours has to say what the recording says.

``say``    publish ``payload`` on ``topic``; ``by`` names the client, the player's own when absent
``hear``   the next message of ours on ``topic`` has this ``payload`` and this ``qos`` (2 when absent)
``chunks`` ``{"say": image, "binary": name, "size": bytes}`` publishes a binary, ``{"hear": image, "binary": name}``
           assembles what our proxy publishes and compares
``http``   a request to one of our services: ``method``, ``url``, ``body``, ``status``, ``answer``; ``until``: ask again
           until the answer is that one
``asked``  the next request of ours for ``path`` at the services that are played
``log``    a phrase that appears in our log

In a payload ``${name}`` is a variable, bound when it is first heard. ``<str>``, ``<uint>`` and so on stand for any value of
that type; a key with a question mark may be absent; the key ``...`` allows others.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

Variables = dict[str, Any]

FOLDER = Path(__file__).with_name("conversations")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_KINDS = {
    "<str>": lambda value: isinstance(value, str),
    "<text>": lambda value: isinstance(value, str) and value,
    "<uint>": lambda value: type(value) is int and value >= 0,
    "<number>": lambda value: type(value) in {int, float},
    "<object>": lambda value: isinstance(value, dict),
    "<any>": lambda _: True,
}


def names(who: str) -> list[str]:
    """The conversations with this peer, in the order of their names."""
    return sorted(path.stem for path in (FOLDER / who).glob("*.json"))


def load(who: str, name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / who / f"{name}.json").read_text())["steps"]


def fill(value: Any, variables: Variables) -> Any:
    """``value`` with its variables replaced; ``{"$base64": x}`` becomes text, of the bytes or of the JSON of ``x``."""
    match value:
        case {"$base64": inner}:
            content = fill(inner, variables)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            return base64.b64encode(raw).decode()
        case dict():
            return {fill(key, variables): fill(item, variables) for key, item in value.items()}
        case list():
            return [fill(item, variables) for item in value]
        case str() if whole := _VARIABLE.fullmatch(value):
            return variables[whole[1]]
        case str():
            return _VARIABLE.sub(lambda found: str(variables[found[1]]), value)
    return value


def difference(expected: Any, found: Any, variables: Variables, at: str = "") -> str | None:
    """Where ``found`` is not what was recorded, or None; binds the variables that are met for the first time."""
    match expected:
        case {"$base64": inner}:
            return difference(inner, json.loads(base64.b64decode(found, validate=True)), variables, f"{at} (base64)")
        case {"$json": inner}:
            return difference(inner, json.loads(found), variables, f"{at} (JSON)")
        case dict():
            return _object_difference(expected, found, variables, at)
        case list():
            if not isinstance(found, list) or len(found) != len(expected):
                return f"{at}: {found!r} instead of {expected!r}"
            pairs = enumerate(zip(expected, found, strict=True))
            return next((d for i, (e, f) in pairs if (d := difference(e, f, variables, f"{at}[{i}]"))), None)
        case str() if expected in _KINDS:
            return None if _KINDS[expected](found) else f"{at}: {found!r} is not {expected}"
        case str() if (whole := _VARIABLE.fullmatch(expected)) and whole[1] not in variables:
            variables[whole[1]] = found
            return None
    wanted = fill(expected, variables)
    return None if wanted == found and type(wanted) is type(found) else f"{at}: {found!r} instead of {wanted!r}"


def _object_difference(expected: dict[str, Any], found: Any, variables: Variables, at: str) -> str | None:
    if not isinstance(found, dict):
        return f"{at}: {found!r} is not an object"
    allowed = {key.removesuffix("?") for key in expected}
    surplus = found.keys() - allowed
    if surplus and "..." not in expected:
        return f"{at}: {sorted(surplus)} should not be there"
    for key, item in expected.items():
        name = key.removesuffix("?")
        if name in found:
            if problem := difference(item, found[name], variables, f"{at}.{name}"):
                return problem
        elif not key.endswith("?") and key != "...":
            return f"{at}.{name} is missing"
    return None
