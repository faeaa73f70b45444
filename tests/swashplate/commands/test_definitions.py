"""Jobs and workflows read from files."""

import base64

import pytest

from swashplate.commands.definitions import load
from swashplate.errors import InvalidRequestError

WASM = b"\0asm\x01\0\0\0"
ALLOWED = {"name", "tasks"}


def written(folder, text, name="w.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_beside_the_definition_is_sent_along_and_shorthands_are_the_fields_they_stand_for(tmp_path):
    (tmp_path / "add.wasm").write_bytes(WASM)
    path = written(
        tmp_path,
        "name: w\ntasks:\n- {name: a, file: add.wasm, invoke: add, inputs: [2, 40], env: {N: 1, on: true, DAY: 2026-01-02}}\n"
        "- {name: b, image: r/i:1, depends_on: [a]}\n",
    )
    first, second = load(path, ALLOWED)["tasks"]
    assert base64.b64decode(first["file"]) == WASM
    assert first["cli_args"] == ["--invoke", "add"]
    assert first["env"] == {"N": "1", "on": "true", "DAY": "2026-01-02"}
    assert second == {"name": "b", "image_url": "r/i:1", "depends_on": ["a"]}


def test_json_and_a_bare_list_are_definitions_too(tmp_path):
    path = written(tmp_path, '[{"name": "a", "image_url": "r/i:1"}]', "w.json")
    assert load(path, ALLOWED) == {"tasks": [{"name": "a", "image_url": "r/i:1"}]}


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("tasks: [", "line 1, column 9", None),
        ("tasks: []", "at least one task", None),
        ("a sentence", "expected an object", None),
        ("tasks: [1]", "task 1: expected an object", None),
        ("tasks: [{name: a, depend_on: [b]}]", "task 1 (a): there is no field 'depend_on'", "is depends_on meant?"),
        ("nmae: x\ntasks: [{name: a}]", "there is no field 'nmae'", "is name meant?"),
        ("tasks: [{name: a, file: nowhere.wasm}]", "task 1 (a): field file: cannot read", None),
        ("tasks: [{name: a, file: w.wasm}]", "task 1 (a): field file", None),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor", None),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, text, sentence, hint):
    (tmp_path / "w.wasm").write_text("text")
    with pytest.raises(InvalidRequestError) as caught:
        load(written(tmp_path, text), ALLOWED)
    assert sentence in caught.value.sentence
    if hint:
        assert caught.value.hint == hint


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InvalidRequestError, match="No such file"):
        load(tmp_path / "nowhere.yaml", ALLOWED)
