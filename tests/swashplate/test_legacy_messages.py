"""What Propeller's components write, in the forms that their releases and languages give it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swashplate.errors import InvalidRequestError
from swashplate.messages.legacy import LegacyChunk, LegacyLearned, LegacyMetrics, LegacyResult, LegacyStart
from swashplate.topics import Topics, overlap


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ({"secs_since_epoch": 1767323045, "nanos_since_epoch": 500_000_000}, "2026-01-02T03:04:05.5Z"),
        ("2026-01-02T03:04:05.500000001Z", "2026-01-02T03:04:05.500000001Z"),
        ("2026-01-02T04:04:05.5+01:00", "2026-01-02T04:04:05.5+01:00"),
        (1767323045, "2026-01-02T03:04:05Z"),
        (1767323045.5, "2026-01-02T03:04:05.5Z"),
        (None, ""),
    ],
)
def test_a_time_is_kept_as_rfc_3339_whatever_form_it_came_in(written, kept):
    text = json.dumps({"proplet_id": "p", "timestamp": written, "cpu_metrics": {}})
    assert LegacyMetrics.decode(text).timestamp == kept


@pytest.mark.parametrize("written", ["yesterday", True, {"secs_since_epoch": "1"}, [1]])
def test_what_is_no_time_is_refused_by_name(written):
    with pytest.raises(InvalidRequestError, match="timestamp"):
        LegacyMetrics.decode(json.dumps({"proplet_id": "p", "timestamp": written}))


def test_null_means_the_same_as_nothing():
    start = LegacyStart.decode('{"id": "t", "name": "n", "inputs": null, "cli_args": null, "env": null, "file": null}')
    assert start == LegacyStart(id="t", name="n")


def test_a_start_says_only_what_there_is_to_say():
    said = json.loads(LegacyStart(id="t", name="n", proplet_id="p").encode())
    assert said.keys() == {
        "id", "name", "state", "cli_args", "broadcast", "daemon", "latent", "encrypted", "proplet_id",
    }  # fmt: skip


def test_a_result_says_that_there_is_no_error_and_names_its_sender_once():
    plain = json.loads(LegacyResult(task_id="t", proplet_id="p", results="r").encode())
    assert plain == {"task_id": "t", "proplet_id": "p", "results": "r", "error": None}
    learned = LegacyLearned.of(b"{}", task_id="t", round_id="r", proplet_id="p").model_dump()
    said = LegacyResult(task_id="t", results=learned).encode()
    assert "proplet_id" not in json.loads(said)
    assert LegacyResult.decode(said).sender == "p"


@pytest.mark.parametrize("results", [None, "text", {}, {"proplet_id": 7}])
def test_a_result_that_names_nobody_has_no_sender(results):
    with pytest.raises(InvalidRequestError, match="names no proplet"):
        _ = LegacyResult.decode(json.dumps({"task_id": "t", "results": results})).sender


@given(st.binary())
def test_a_chunk_carries_any_bytes(content):
    chunk = LegacyChunk.of(content, app_name="a", chunk_idx=0, total_chunks=1)
    assert LegacyChunk.decode(chunk.encode()).content() == content


def test_the_shared_topics_overlap_none_of_ours():
    names = Topics("d", "c")
    shared = [names.everything_shared_from_proplets, names.shared_blob_request, names.shared_chunks]
    shared += [names.shared_to_proplets(kind) for kind in ("start", "stop", "invoke")]
    ours = [
        names.every_proplet("alive"),
        names.every_blob_request,
        names.blob_reply("p"),
        names.to_proplet("p", "start"),
    ]
    ours += [names.announce, names.resolve_request, names.resolve_reply, names.chunks_of("0")]
    assert not [(one, other) for one in shared for other in ours if overlap(one, other)]
