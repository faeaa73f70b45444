"""A guest built with Go, and as much as a guest is given in variables at all."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.go, pytest.mark.timeout(600)]  # the first build compiles Go's standard library

ROWS, FEATURES = 4200, 40


async def test_it_learns_from_nearly_four_mebibytes_of_variables(world, proplet, go_guest):
    random = np.random.default_rng(1)
    x = random.standard_normal((ROWS, FEATURES))
    rows = [{"x": list(row), "y": int(row[0] > 0)} for row in x.tolist()]
    world.site.datasets.put("large", rows)
    [stored] = (world.tmp_path / "datasets").glob("large*")
    assert 3 << 20 < stored.stat().st_size < 4 << 20
    world.site.models["wide", 1] = {"w": [0.0] * FEATURES, "b": 0.0}
    env = {"ROUND_ID": "r", "MODEL_URI": "fl/models/wide_v1"}
    start = world.start(
        go_guest.read_bytes(), name="fl-round-r", kind="federated", dataset="large", env=env, tokens={"update": "t"}
    )
    async with world.site.data_store(), world.site.registry(), world.site.coordinator():
        result = await world.manager.outcome(start)
    assert result.error is None
    [(_, update)] = world.site.updates
    assert update["num_samples"] == ROWS
    assert update["update"]["w"][0] > max(map(abs, update["update"]["w"][1:]))
