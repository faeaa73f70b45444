"""Every way to call a guest, and what is refused about a call."""

from __future__ import annotations

import pytest

from tests.support.components import EVERYTHING, FUNCTIONS, RESOURCE, SERVES
from tests.support.sandbox import Sandbox

EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
CORE = f"""(module {EXIT}
  (memory (export "memory") 1)
  (table (export "table") 1 funcref)
  (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
  (func (export "ready") (result i32) (global.get $ready))
  (func (export "añadir→") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
  (func (export "several") (param f32) (result f32 i64 i32) (local.get 0) (i64.const -1) (i32.const 7))
  (func (export "none"))
  (func (export "exits") (param i32) (result i32) (call $exit (local.get 0)) (i32.const 9))
  (func (export "takes-v128") (param v128))
  (func (export "gives-v128") (result v128) (v128.const i64x2 1 2))
  (func (export "takes-funcref") (param i32 funcref))
  (func (export "gives-funcref") (result funcref) (ref.null func)))"""
LARGE = FUNCTIONS.replace('"memory") 2', '"memory") 400')
VALUE = (
    '(true, -128, 65535, -9223372036854775808, 18446744073709551615, 0.1, 1e+300, \'é\', "a\\"b\\n\\u{0}", [1, 255],'
    ' ["x", ""], {x: 1}, [circle(1.5), %none, size(1), on(true)], %ok, {write}, some(none), err("no"), err,'
    ' (1, ("z")), some(true))'
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.remove()


def outcome(ran):
    return ran.answer.text, ran.code


@pytest.mark.parametrize(
    ("function", "inputs", "text"),
    [
        ("ready", [], "1"),
        ("_initialize", [], ""),
        ("añadir→", ["40", "2"], "42"),
        ("several", ["0.1"], "0.1 -1 7"),
        ("none", [], ""),
        ("exits", ["0"], None),
    ],
)
def test_a_core_function_is_called_after_initialize_and_gives_its_results(sandbox, function, inputs, text):
    assert outcome(sandbox.run(CORE, name=function, inputs=inputs)) == (text, "")


@pytest.mark.parametrize("precompile", [False, True])
@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("takes-v128", "type_unsupported", "takes-v128 takes or returns v128"),
        ("gives-v128", "type_unsupported", "gives-v128 takes or returns v128"),
        ("takes-funcref", "type_unsupported", "takes-funcref takes funcref"),
        ("gives-funcref", "type_unsupported", "gives-funcref returns funcref"),
        ("memory", "export_not_found", "memory is not a function"),
        ("Ready", "export_not_found", "it exports _initialize, añadir→"),
        ("", "export_not_found", "exports no function"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_runs_and_when_it_is_deployed(
    sandbox, function, code, words, precompile
):
    ran = sandbox.run(CORE, cli_args=["--invoke", function], precompile=precompile)
    assert (ran.code, words in ran.answer.error) == (code, True), ran.answer


@pytest.mark.parametrize(
    ("name", "function"), [("_start", "_start"), ("_initialize", "f"), ("_initialize", "_initialize")]
)
def test_what_a_runtime_calls_takes_no_parameters(sandbox, name, function):
    ran = sandbox.run(f'(module (func (export "{name}") (param i32)) (func (export "f")))', name=function)
    assert (ran.code, f"{name} must take no parameters, it takes (i32)" in ran.answer.error) == ("guest_link", True)


@pytest.mark.parametrize("name", ["_start", "_initialize"])
def test_a_vector_where_a_runtime_calls_ends_no_process(sandbox, name):
    guest = f'(module (func (export "{name}") (param v128)) (func (export "f")))'
    ran = sandbox.run(guest, cli_args=["--invoke", "f" if name == "_initialize" else name])
    assert (ran.code, name in ran.answer.error) == ("type_unsupported", True)


def test_a_function_that_exits_with_a_status_fails(sandbox):
    ran = sandbox.run(CORE, name="exits", inputs=["3"])
    assert (ran.code, ran.answer.error) == ("guest_exit", "process exited with status 3")


def test_a_component_takes_and_gives_values_of_every_type(sandbox):
    assert outcome(sandbox.run(EVERYTHING, name="same", inputs=[VALUE])) == (VALUE, "")


@pytest.mark.parametrize(
    ("asked", "inputs", "text"),
    [
        ("greet", ["you and me"], '"you and me"'),
        ("greet", ['"you \\u{e9}"'], '"you é"'),
        ("greet", [""], '""'),
        ("greet", ["{not: wave"], '"{not: wave"'),
        ("nothing", [], ""),
        ("ones", ["2"], "[false, false]"),
        ("demo:numbers/api@1.0.0#same", ["-5"], "-5"),
        ("demo:numbers/api#same", ["-5"], "-5"),
        ("same", ["-5"], "-5"),
        ("demo:numbers/more#both", ["1"], "1"),
        ("run", [], None),
        ("wasi:cli/run@0.2.3#run", ["ignored"], None),
    ],
)
def test_a_components_function_is_named_as_exactly_as_it_must_be(sandbox, asked, inputs, text):
    assert outcome(sandbox.run(FUNCTIONS, cli_args=["--invoke", asked], inputs=inputs)) == (text, "")


@pytest.mark.parametrize(
    ("name", "inputs", "text"), [("greet", ["you"], '"you"'), ("task", [], None), ("fl-round-1", ["x"], None)]
)
def test_without_invoke_it_is_the_function_called_like_the_task_or_the_command(sandbox, name, inputs, text):
    assert outcome(sandbox.run(FUNCTIONS, name=name, inputs=inputs)) == (text, "")


@pytest.mark.parametrize(
    ("guest", "asked", "inputs", "code", "words"),
    [
        (FUNCTIONS, "both", ["1"], "export_not_found", "both may be demo:numbers/api@1.0.0#both or demo:numbers/more"),
        (
            FUNCTIONS,
            "demo:numbers/api",
            [],
            "export_not_found",
            "exports no function demo:numbers/api; it exports demo",
        ),
        (FUNCTIONS, "same", [], "invalid_inputs", "takes 1 argument (a: s8), got 0 inputs"),
        (
            FUNCTIONS,
            "same",
            ["x"],
            "invalid_inputs",
            "input 0 (a): a whole number of type s8 is expected at character 1",
        ),
        (FUNCTIONS, "greet", ['"x'], "invalid_inputs", "input 0 (text): "),
        (FUNCTIONS, "ones", ["131072"], "output_limit", "the result is over the limit of 524288 bytes"),
        (LARGE, "ones", ["20000000"], "output_limit", "too much data is being copied"),
        (FUNCTIONS, "trap", [], "trap:unreachable", "unreachable"),
        (RESOURCE, "made", [], "type_unsupported", "made cannot be called with text: a resource has no text"),
        (SERVES, "handle", [], "http_unsupported", "exports wasi:http/incoming-handler@0.2.3"),
    ],
)
def test_what_a_component_cannot_do_is_told(sandbox, guest, asked, inputs, code, words):
    ran = sandbox.run(guest, cli_args=["--invoke", asked], inputs=inputs, limits={"memory": 64 << 20})
    assert (ran.code, words in ran.answer.error) == (code, True), ran.answer


@pytest.mark.parametrize(
    ("guest", "asked", "code"),
    [
        (FUNCTIONS, "missing", "export_not_found"),
        (RESOURCE, "made", "type_unsupported"),
        (SERVES, "handle", "http_unsupported"),
    ],
)
def test_a_component_that_cannot_be_called_is_refused_when_it_is_deployed(sandbox, guest, asked, code):
    assert sandbox.run(guest, cli_args=["--invoke", asked], precompile=True).code == code
