"""WAVE: what is written reads back, and what cannot be read is told with its place."""

from __future__ import annotations

import contextlib
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proplet.sandbox import wave
from proplet.sandbox.wave import Case

LIMIT = 1 << 20
LABELS = st.sampled_from(["a", "b", "long-name", "X", "x2-Y", "none", "some", "ok", "err", "true", "inf", "nan"])
INTEGERS = [wave.Integer(bits, signed=signed) for bits in (8, 16, 32, 64) for signed in (True, False)]
SIMPLE = st.sampled_from([wave.Bool(), *INTEGERS, wave.Float(32), wave.Float(64), wave.Char(), wave.String()])
NAMES = st.lists(LABELS, min_size=1, max_size=4, unique=True).map(tuple)
U8, STRING = wave.Integer(8, signed=False), wave.String()
POINT = wave.Record((("x", wave.Integer(32, signed=True)), ("note", wave.Option(STRING))))
SHAPE = wave.Variant((("circle", wave.Float(32)), ("none", None)))


def _made(inner):
    def named(kind):
        return st.lists(st.tuples(LABELS, kind), min_size=1, max_size=4, unique_by=lambda pair: pair[0]).map(tuple)

    maybe = st.none() | inner
    return st.one_of(
        inner.map(wave.List),
        st.lists(inner, min_size=1, max_size=3).map(tuple).map(wave.Tuple),
        named(inner).map(wave.Record),
        named(maybe).map(wave.Variant),
        inner.map(wave.Option),
        st.builds(wave.Result, maybe, maybe),
    )


TYPES = st.recursive(SIMPLE | NAMES.map(wave.Enum) | NAMES.map(wave.Flags), _made, max_leaves=8)


def values(kind):  # one line for each type
    match kind:
        case wave.Bool():
            return st.booleans()
        case wave.Integer():
            return st.integers(kind.least, kind.most)
        case wave.Float():
            return st.floats(width=kind.bits, allow_nan=False)
        case wave.Char():
            return st.characters(exclude_categories=["Cs"])
        case wave.String():
            return st.text(st.characters(exclude_categories=["Cs"]))
        case wave.List():
            return st.lists(values(kind.element), max_size=3)
        case wave.Tuple():
            return st.tuples(*map(values, kind.elements))
        case wave.Record():
            return st.fixed_dictionaries({name: values(field) for name, field in kind.fields})
        case wave.Flags():
            return st.frozensets(st.sampled_from(kind.names))
        case wave.Enum():
            return st.sampled_from(kind.names)
    cases = [
        st.just(Case(name)) if p is None else values(p).map(lambda v, n=name: Case(n, v)) for name, p in kind.cases
    ]
    return st.one_of(cases)


@given(TYPES.flatmap(lambda kind: st.tuples(st.just(kind), values(kind))))
def test_what_is_written_reads_back(pair):
    kind, value = pair
    text = wave.write(kind, value, LIMIT)
    assert wave.read(kind, text) == value
    assert wave.read(kind, f" // a remark\n {text}\t") == value


@given(TYPES, st.text("{}[]()<>:,'\"\\-+.0123456789aeflnortsu% \n/"))
def test_any_text_is_read_or_refused_in_one_way(kind, text):
    with contextlib.suppress(wave.WaveError):
        again = wave.write(kind, wave.read(kind, text), LIMIT)
        assert wave.write(kind, wave.read(kind, again), LIMIT) == again


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (wave.Float(32), "0.1", struct.unpack("<f", struct.pack("<f", 0.1))[0]),
        (wave.Float(64), "-inf", -math.inf),
        (wave.Float(64), "1", 1.0),
        (STRING, r'"a\tb\"\u{e9}\'"', "a\tb\"\u00e9'"),
        (wave.Char(), "'\"'", '"'),
        (wave.List(U8), "[]", []),
        (wave.List(U8), "[1,2,]", [1, 2]),
        (POINT, '{note: "n", x: -1}', {"x": -1, "note": Case("some", "n")}),
        (POINT, "{ x : 1 , }", {"x": 1, "note": Case("none")}),
        (wave.Record((("o", wave.Option(U8)),)), "{ : }", {"o": Case("none")}),
        (SHAPE, "circle( 1.5 )", Case("circle", 1.5)),
        (SHAPE, "%none", Case("none")),
        (wave.Option(U8), "5", Case("some", 5)),
        (wave.Result(None, STRING), "ok", Case("ok")),
        (wave.Result(wave.Option(U8), None), "ok(3)", Case("ok", Case("some", 3))),
        (wave.Flags(("r", "w")), "{w, r}", frozenset({"r", "w"})),
    ],
)
def test_each_form_is_read(kind, text, value):
    assert wave.read(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (U8, "256", "256 at character 1 is out of the range of u8"),
        (U8, "9" * 5000, "out of the range of u8"),
        (U8, "1.0", "a whole number of type u8 is expected at character 1, not '1.0'"),
        (U8, "01", "nothing more is expected at character 2, not '1'"),
        (U8, "", "a whole number of type u8 is expected at character 1, but the text ends"),
        (U8, "nan", "a whole number"),
        (wave.Float(32), "1e39", "out of the range of f32"),
        (wave.Bool(), "yes", "bool is expected at character 1, not 'yes'"),
        (STRING, '"a', '" is expected at character 3, but the text ends'),
        (STRING, '"\\q"', "an escape"),
        (STRING, '"\\u{d800}"', "an escape"),
        (STRING, '"\\u{110000}"', "an escape"),
        (STRING, '"a\nb"', "instead of a line break"),
        (wave.Char(), "''", "a character is expected at character 2"),
        (wave.Char(), "'ab'", '"\'" is expected at character 3, not "b\'"'),
        (wave.List(U8), "[1 2]", "',' or ']' is expected at character 4, not '2]'"),
        (wave.List(U8), "[,]", "a whole number of type u8 is expected at character 2"),
        (wave.Tuple((U8, STRING)), "(1)", "a value of type string is expected at character 3, not ')'"),
        (wave.Tuple((U8,)), "(1, 2)", "')' is expected at character 5"),
        (POINT, '{note: "n"}', "the field x is expected at character 11"),
        (POINT, "{x: 1, x: 2}", "a field that is not there yet (note) is expected at character 8"),
        (POINT, "{y: 1}", "not there yet (x, note)"),
        (SHAPE, "square(1)", "variant { circle(f32), none } is expected at character 1, not 'square(1)'"),
        (SHAPE, "circle", "'(' is expected at character 7, but the text ends"),
        (wave.Enum(("red", "green")), "blue", "enum { red, green } is expected"),
        (wave.Flags(("r",)), "{r, r}", "not there yet (none is left)"),
        (wave.Option(wave.Option(U8)), "5", "option<option<u8>> is expected"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(kind, text, reason):
    with pytest.raises(wave.WaveError) as raised:
        wave.read(kind, text)
    assert reason in str(raised.value)


def test_nothing_longer_than_the_limit_is_written():
    assert wave.write(wave.List(U8), [1, 2], 6) == "[1, 2]"
    with pytest.raises(wave.TooLong):
        wave.write(wave.List(U8), [1, 2], 5)


def test_a_type_is_told_as_wit_writes_it():
    kind = wave.Tuple((wave.List(U8), wave.Result(None, STRING), wave.Result(None, None), wave.Flags(("r", "w"))))
    assert str(kind) == "tuple<list<u8>, result<_, string>, result, flags { r, w }>"
    assert str(POINT) == "record { x: s32, note: option<string> }"
