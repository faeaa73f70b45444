"""Federated averaging, as a function of the updates and nothing else.

FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, algorithm 1: ``w = Σ_k (n_k / n) · w_k`` with ``n = Σ_k n_k``. It is computed as
``(Σ_k n_k · w_k) / n``, which is exact while the sums are whole numbers below 2⁵³.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator import models
from coordinator.models import Model
from swashplate.errors import InvalidRequestError

MAX_SAMPLES = 1 << 53
"""Up to here every whole number is a float64."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one participant learned: its whole new model, and on how many samples. ``index`` names it in errors."""

    index: int
    proplet_id: str
    num_samples: int
    model: Model

    @property
    def name(self) -> str:
        return _name(self.index, self.proplet_id)


def contributions(updates: object) -> list[Contribution]:
    """Check the JSON ``updates``; raises ``InvalidRequestError`` naming the update, by index and proplet, and the reason."""
    if not isinstance(updates, list) or not updates:
        raise InvalidRequestError("No updates provided", code="no_updates", hint='send {"updates": […]}')
    checked = [_contribution(index, update) for index, update in enumerate(updates)]
    seen: set[str] = set()
    for one in checked:
        if one.proplet_id and one.proplet_id in seen:
            raise _invalid(f"{one.name}: this proplet has another update in the same round")
        seen.add(one.proplet_id)
    return checked


def fedavg(updates: Sequence[Contribution]) -> Model:
    """The average model, weighted by samples: float64, the shapes of the first update.

    Summed in participant order, so the bytes do not depend on the order in which the updates arrived.
    Raises ``InvalidRequestError`` when shapes differ or a sum overflows.
    """
    if not updates:
        raise InvalidRequestError("No updates provided", code="no_updates")
    first = updates[0]
    wanted = models.shapes(first.model)
    for update in updates[1:]:
        problem = models.difference(models.shapes(update.model), wanted)
        if problem:
            raise _invalid(f"{update.name}: {problem} as in {first.name}")
    total = sum(update.num_samples for update in updates)
    mean: Model = {name: np.zeros(tensor.shape) for name, tensor in first.model.items()}
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for update in sorted(updates, key=_participant_order):
            for name, tensor in update.model.items():
                mean[name] += float(update.num_samples) * tensor
    for name in mean:
        mean[name] /= float(total)
        if not np.isfinite(mean[name]).all():
            raise _invalid(f"the average of {name} overflows: the updates hold numbers near the end of float64")
    return mean


def _participant_order(update: Contribution) -> tuple[str, int, bytes]:
    # Nameless updates have no order of their own; their content gives them one.
    return update.proplet_id, update.num_samples, b"" if update.proplet_id else models.encode(update.model)


def _contribution(index: int, update: object) -> Contribution:
    if not isinstance(update, dict):
        raise _invalid(f"{_name(index, '')} must be an object")
    proplet_id = update.get("proplet_id", "")
    if not isinstance(proplet_id, str):
        raise _invalid(f"{_name(index, '')}: proplet_id must be a text")
    name = _name(index, proplet_id)
    samples = update.get("num_samples")
    if type(samples) is not int:
        raise _invalid(f"{name}: num_samples must be a whole number")
    if samples <= 0:
        raise _invalid(f"{name}: num_samples must be greater than 0, got {samples}")
    if samples > MAX_SAMPLES:
        raise _invalid(f"{name}: num_samples must be at most {MAX_SAMPLES}")
    return Contribution(index, proplet_id, samples, models.parse(update.get("update"), f"{name}: update"))


def _name(index: int, proplet_id: str) -> str:
    return f"updates[{index}] ({proplet_id})" if proplet_id else f"updates[{index}]"


def _invalid(sentence: str) -> InvalidRequestError:
    return InvalidRequestError(sentence, code="invalid_update")
