"""JSON that two readers could read differently is refused, with the field and the reason."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swashplate.errors import InvalidRequestError
from swashplate.http import strict_json

EACH = pytest.mark.parametrize("check", [strict_json.check, strict_json.look_through])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a":1,"a":2}', "body: field a: the key is given twice"),
        ('{"a":1,"\\u0061":2}', "body: field a: the key is given twice"),
        ('{"env":{"X":"1","Y":"2","X":"1"}}', "body: field env.X: the key is given twice"),
        ('[{"a":[{"b":1,"b" : 1}]}]', "body: field a.b: the key is given twice"),
        ('{"a":NaN}', "body: field a: numbers must be finite"),
        ('{"a":[1,-Infinity]}', "body: field a: numbers must be finite"),
        ('{"a":"x\\u0000y"}', "body: field a: a text must not contain NUL"),
        ('["\\\\\\u0000"]', "body: a text must not contain NUL"),
        ("[" * 65 + "]" * 65, "body: nested deeper than 64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
    ],
)
@EACH
def test_what_is_ambiguous_is_refused_and_named(check, text, sentence):
    with pytest.raises(InvalidRequestError) as caught:
        check(text)
    assert sentence in caught.value.sentence


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"a":1},"b":{"a":2}}',
        '[{"a":1},{"a":1}]',
        '{"a":"a","b":"a"}',
        '{"a":"NaN, Infinity, {\\"a\\":1,\\"a\\":2} [[["}',
        '{"a":"\\\\","b":"\\\\\\""}',
        '["\\\\u0000"]',
        "[" * 64 + "]" * 64,
        "1",
        '""',
        '{"":1}',
        "true",
    ],
)
@EACH
def test_what_is_not_ambiguous_passes(check, text):
    json.loads(text)
    check(text)


def _values(text: st.SearchStrategy[str]) -> st.SearchStrategy:
    leaves = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | text
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


CHARACTERS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from('"\\{}[]NI:,'))


@EACH
@given(value=_values(CHARACTERS), ascii_only=st.booleans())
def test_every_other_json_passes(check, value, ascii_only):
    check(json.dumps(value, ensure_ascii=ascii_only))


@EACH
@given(before=_values(CHARACTERS), key=CHARACTERS, value=_values(CHARACTERS))
def test_a_repeated_key_is_found_wherever_it_is(check, before, key, value):
    name, inner = json.dumps(key), json.dumps(value)
    with pytest.raises(InvalidRequestError, match="twice"):
        check(f"[{json.dumps(before)},{{{name}:{inner}, {name} :{inner}}}]")


def test_a_large_text_is_looked_through_in_a_moment():
    text = '{"file":"' + "A" * 50_000_000 + '","numbers":[' + "1.5," * 2_000_000 + "1]}"
    began = time.perf_counter()
    strict_json.check(text)
    assert time.perf_counter() - began < 3
