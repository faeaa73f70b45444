"""A large update is held against its round before its model is built."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest

from coordinator import models, updates
from coordinator.records import Round
from swashplate.errors import InvalidRequestError
from swashplate.messages import ExperimentConfig
from swashplate.model_ref import ModelRef

HEAD = b'{"round_id":"r-1","proplet_id":"p-1","num_samples":3,"metrics":{"loss":0.5},"update":'


def round_of(**shapes: list[int]) -> Round:
    config = ExperimentConfig(
        round_id="r-1", model_ref="fl/models/m_v0", participants=["p-1"], task_wasm_image="r.example/guest:1"
    )
    return Round(config, ModelRef("m", 0), "", shapes, k_of_n=1, created_at=0, deadline=60)


def received(round_: Round, body: bytes):
    return updates.receive(round_, updates.read(body), body, 1.0)


def test_it_is_the_same_however_it_is_printed():
    model = {"w": [i / 7 for i in range(20_000)], "b": 0.5, "rows": [[float(i)] for i in range(20_000)]}
    body = HEAD + json.dumps(model, indent=4).encode() + b"}"
    assert len(body) > updates.LARGE
    found = received(round_of(w=[20_000], b=[], rows=[20_000, 1]), body)
    expected = models.encode(models.parse(model))
    assert (found.body, json.loads(found.metrics), found.key.num_samples) == (expected, {"loss": 0.5}, 3)


@pytest.mark.parametrize("value", [b"[]", b"0", b"{}", b"[0]", b'""'])
@pytest.mark.parametrize("numbers", [3, 60_000])
def test_one_of_another_extent_is_refused_before_it_takes_memory(value, numbers):
    body = HEAD + b'{"w":[' + b",".join([value] * (3_000_000 // (len(value) + 1))) + b'],"b":0}}'
    round_ = round_of(w=[numbers], b=[])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError) as refused:
            received(round_, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.sentence.startswith("update: ")
    assert peak < 3 * len(body)


async def test_a_large_update_without_its_token_is_refused_with_its_reason(world):
    await world.configure()
    body = HEAD + b'{"w":[' + b"[]," * 500_000 + b'0],"b":0}}'
    url = world.url("coordinator") + "/update"
    for token, said in (("wrong", (403, "invalid_token")), (world.token("p-1"), (400, "shape_mismatch"))):
        headers = {"Content-Type": "application/json", "X-Attempt-Token": token}
        async with world.session.post(url, data=io.BytesIO(body), headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == said
    assert (await world.update("p-1"))[1] == {"status": "accepted"}
