"""Which layer of an image is the binary."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.manifests import Binary, binary_of, decode, entry_of, is_index
from swashplate.errors import InvalidRequestError

A, B, C = ("sha256:" + digit * 64 for digit in "abc")


def layer(digest: str, size: int, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"digest": digest, "size": size, "mediaType": media_type}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    ],
)
def test_the_wasm_layer_is_chosen_over_a_larger_one(media_type):
    manifest = {"layers": [layer(A, 900), layer(B, 5, media_type), layer(C, 10)]}
    assert binary_of(manifest, "x") == Binary(B, 5, media_type)


def test_without_a_wasm_media_type_the_largest_layer_is_chosen():
    assert binary_of({"layers": [layer(A, 1), layer(B, 9), layer(C, 5)]}, "x").digest == B


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({}, "no layers"),
        ({"layers": []}, "no layers"),
        ({"layers": "x"}, "no layers"),
        ({"layers": [{"size": 1}]}, "no sha256 digest"),
        ({"layers": [layer("sha512:" + "0" * 128, 1)]}, "no sha256 digest"),
        ({"layers": [layer("../../etc/passwd", 1)]}, "no sha256 digest"),
        ({"layers": [layer(A, -1)]}, "no size"),
        ({"layers": [layer(A, True)]}, "no size"),
    ],
)
def test_a_useless_manifest_is_refused_with_the_reason(manifest, reason):
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        binary_of(manifest, "x")
    assert refused.value.code == "invalid_manifest"


def entry(digest: str, architecture: str, os: str = "linux") -> dict[str, object]:
    return {"digest": digest, "platform": {"architecture": architecture, "os": os}}


def test_an_index_with_one_wasm_image_leads_to_it():
    assert entry_of({"manifests": [entry(A, "amd64"), entry(B, "wasm", "wasip1"), entry(C, "arm64")]}, "x") == B


def test_an_index_of_one_image_leads_to_it():
    assert entry_of({"manifests": [{"digest": C}]}, "x") == C


@pytest.mark.parametrize(
    "entries", [[], [entry(A, "amd64"), entry(B, "arm64")], [entry(A, "wasm"), entry(B, "wasm")], [{"digest": "x"}]]
)
def test_an_index_without_one_answer_is_refused(entries):
    with pytest.raises(InvalidRequestError):
        entry_of({"manifests": entries}, "x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["layers", "manifests", "digest", "size", "mediaType", "platform"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_understood_or_refused(value):
    code = "invalid_manifest"
    try:
        manifest = decode(json.dumps(value).encode(), "x")
        entry_of(manifest, "x") if is_index(manifest) else binary_of(manifest, "x")
    except InvalidRequestError as error:
        code = error.code
    assert code == "invalid_manifest"


def test_deeply_nested_json_is_refused():
    with pytest.raises(InvalidRequestError):
        decode(b"[" * 200_000, "x")
