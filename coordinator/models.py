"""A model: named float64 tensors, and the one JSON text that stands for it.

Equal tensors have equal bytes and so equal digests: ``w`` and ``b`` come first, then the other names sorted; a whole
number is written without a fraction (``0``, never ``0.0`` or ``-0``), any other as the shortest text that reads back as
the same float64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from swashplate.errors import InvalidRequestError

Tensor: TypeAlias = npt.NDArray[np.float64]
Model: TypeAlias = dict[str, Tensor]
Shapes: TypeAlias = dict[str, list[int]]

MAX_DEPTH = 16
PIECE = 1 << 14
"""Numbers that are written in one go; between two pieces other threads have their turn."""
_NUMBERS = {int, float}


def parse(value: object, what: str = "model") -> Model:
    """The tensors of a JSON model: ``w`` (a list of numbers), ``b`` (a number), and any further numbers or nested lists.

    Raises ``InvalidRequestError`` with code ``invalid_model`` naming the element and the reason.
    """
    if not isinstance(value, dict):
        raise _invalid(f"{what} must be an object, got {_shown(value)}")
    for name in ("w", "b"):
        if name not in value:
            raise _invalid(f"{what}: {name} is missing")
    model = {name: _tensor(value[name], f"{what}: {name}") for name in _ordered(value)}
    if model["w"].ndim != 1:
        raise _invalid(f"{what}: w must be a list of numbers")
    if model["b"].ndim != 0:
        raise _invalid(f"{what}: b must be a number")
    return model


def encode(model: Mapping[str, Tensor]) -> bytes:
    """The canonical JSON text; raises ``InvalidRequestError`` when a number is not finite."""
    parts = []
    for name in _ordered(model):
        _refuse_non_finite(model[name], f"model: {name}")
        parts.append(f"{json.dumps(name)}:{_text(model[name])}")
    return ("{" + ",".join(parts) + "}").encode()


def shapes(model: Mapping[str, Tensor]) -> Shapes:
    """The shape of every tensor; a single number has the shape ``[]``."""
    return {name: list(tensor.shape) for name, tensor in model.items()}


def difference(found: Shapes, wanted: Shapes) -> str | None:
    """What is wrong with shapes that should be ``wanted``, as a sentence, or nothing."""
    for name in _ordered(wanted):
        if name not in found:
            return f"{name} is missing"
        if found[name] != wanted[name]:
            return f"{name} has shape {found[name]}, expected {wanted[name]}"
    surplus = next((name for name in found if name not in wanted), None)
    return None if surplus is None else f"{surplus} is not part of the model"


def _ordered(names: Mapping[str, Any]) -> list[str]:
    return [n for n in ("w", "b") if n in names] + sorted(n for n in names if n not in {"w", "b"})


def _text(tensor: Tensor) -> str:
    if tensor.size > PIECE:
        rows = PIECE * len(tensor) // tensor.size
        if rows == 0:
            return f"[{','.join(map(_text, tensor))}]"
        return f"[{','.join(_text(tensor[at : at + rows])[1:-1] for at in range(0, len(tensor), rows))}]"
    text = json.dumps((tensor + 0.0).tolist(), separators=(",", ":"))  # adding zero turns -0.0 into 0.0
    if tensor.ndim == 0:
        return text.removesuffix(".0")
    # The shortest text of a float64 ends in .0 exactly when it is a whole number below 1e16.
    return text.replace(".0,", ",").replace(".0]", "]")


def _tensor(value: object, where: str) -> Tensor:
    _check_leaves(value, where, 0)
    try:
        tensor: Tensor = np.array(value, dtype=np.float64)
    except OverflowError as error:
        raise _invalid(f"{where} holds a number that is too large for float64") from error
    except ValueError as error:
        raise _invalid(f"{where} is ragged: its lists have different lengths") from error
    _refuse_non_finite(tensor, where)
    return tensor


def _check_leaves(value: object, where: str, depth: int) -> None:
    if type(value) in _NUMBERS:
        return
    if not isinstance(value, list):
        raise _invalid(f"{where} must be a number or a list of numbers, got {_shown(value)}")
    if not value:
        raise _invalid(f"{where} must not be empty")
    if depth == MAX_DEPTH:
        raise _invalid(f"{where} is nested deeper than {MAX_DEPTH} lists")
    kinds = set(map(type, value))
    if kinds <= _NUMBERS:
        return
    for i, item in enumerate(value):
        _check_leaves(item, f"{where}[{i}]", depth + 1)
    if kinds != {list}:
        raise _invalid(f"{where} is ragged: it mixes numbers and lists")


def _refuse_non_finite(tensor: Tensor, where: str) -> None:
    finite = np.isfinite(tensor)
    if not finite.all():
        first = np.argwhere(~finite)[0]
        raise _invalid(f"{where}{''.join(f'[{i}]' for i in first)} is not finite")


def _shown(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _invalid(sentence: str) -> InvalidRequestError:
    return InvalidRequestError(sentence, code="invalid_model")
