"""The limits of a run as people write and read them: ``memory=64MiB``, ``cpu=2s``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from swashplate.settings import Seconds

SECONDS, BYTES, COUNT = "seconds", "bytes", "count"
FIELDS = {
    "wall": ("wall_s", SECONDS),
    "cpu": ("cpu_s", SECONDS),
    "memory": ("memory_bytes", BYTES),
    "table": ("table_elements", COUNT),
    "stack": ("stack_bytes", BYTES),
    "output": ("output_bytes", BYTES),
    "files": ("output_files", COUNT),
    "log": ("log_bytes", BYTES),
    "fuel": ("fuel", COUNT),
}
"""What people call it → the field of ``swashplate.messages.RunLimits``, and what it counts."""
NAMES = {field: name for name, (field, _) in FIELDS.items()}
_KINDS = dict(FIELDS.values())
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
_seconds: TypeAdapter[float] = TypeAdapter(Seconds)


def size(text: str | float) -> int:
    """Bytes out of ``1048576``, ``64MiB``, ``64M``; raises ``ValueError``."""
    found = re.fullmatch(r"([0-9]+)\s*([kmgt]?i?)b?", str(text).strip().lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size such as 1048576, 64MiB or 1G")
    return int(found[1]) * _UNITS[found[2]]


def duration(text: str | float) -> float:
    """Seconds out of ``30``, ``30s``, ``1m30s``, ``2h``; raises ``ValueError``."""
    try:
        return _seconds.validate_python(text)
    except ValidationError as error:
        raise ValueError(f"{text!r} is not a duration such as 30s, 1m30s or 2h") from error


def amount(name: str, text: str | float) -> float:
    """Of the limit ``name``; raises ``ValueError``."""
    if name not in FIELDS:
        raise ValueError(f"there is no limit {name!r}; there are {', '.join(FIELDS)}")
    kind = FIELDS[name][1]
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ValueError(f"{name}: {text!r} is not an amount")  # noqa: TRY004  # pydantic tells a ValueError to people
    if kind == COUNT and not re.fullmatch("[0-9]+", str(text)):
        raise ValueError(f"{name}: {text!r} is not a whole number")
    try:
        found = duration(text) if kind == SECONDS else size(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if found <= 0:
        raise ValueError(f"{name}: must be more than 0")
    return found


def read(given: Mapping[str, str | float]) -> dict[str, float]:
    """The fields of ``RunLimits`` out of what people wrote; raises ``ValueError`` naming the limit."""
    return {FIELDS[name][0]: value for name, value in ((name, amount(name, text)) for name, text in given.items())}


def shown(field: str, value: float) -> str:
    """The amount of a field of ``RunLimits``, with its unit: ``512 MiB``, ``2 s``, ``10000``."""
    kind = _KINDS.get(field)
    if kind == SECONDS:
        return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"
    if kind != BYTES:
        return f"{value:.0f}"
    unit = "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.4g} {unit}"
