"""An update too large to be built in the agent is held against the same rules, without its model."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from swashplate.errors import InvalidRequestError
from swashplate.messages import Update
from swashplate.messages.large_update import based_on, head

SAID = {"round_id": "r-1", "proplet_id": "p-1", "num_samples": 3, "metrics": {"loss": 0.5}, "update": {"w": [1.5, [2]]}}


def printed(**changes) -> bytes:
    return json.dumps({**SAID, **changes}).encode()


def test_what_is_known_of_it_is_the_same_but_for_its_model():
    assert head(printed(more=1)) == Update.decode(printed()).model_copy(update={"update": {}})


def test_its_base_is_added_and_its_model_stays_as_it_was_printed():
    base = "fl/models/global_model_v0"
    assert Update.decode(based_on(base, printed())) == Update.decode(printed(base_model_uri=base))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        printed()[:-1],
        printed() + b"x",
        printed(update=[1]),
        printed(update="{}"),
        printed(num_samples=0),
        printed(num_samples="3"),
        printed(round_id=7),
        printed(metrics=[]),
        printed(metrics={"x": "y" * 200_000}),
        b'{"round_id":"r","proplet_id":"p","num_samples":1,"update":' + b"[" * 100_000,
        b'{"round_id":"r","proplet_id":"p","num_samples":1,"update":{"w":NaN}}',
        b'{"round_id":"\xff","proplet_id":"p","num_samples":1,"update":{}}',
    ],
)
def test_what_is_no_update_is_refused(text):
    with pytest.raises(InvalidRequestError) as refused:
        head(text)
    assert len(refused.value.sentence) < 500


def test_a_model_of_empty_lists_takes_no_memory():
    text = b'{"round_id":"r","proplet_id":"p","num_samples":1,"update":{"w":[' + b"[]," * 3_000_000 + b"[]]}}"
    tracemalloc.start()
    try:
        head(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(text)
