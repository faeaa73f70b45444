"""What a run gave, as a value or as a file."""

from __future__ import annotations

import json

import pytest

from proplet.runtime import results
from proplet.runtime.task_folder import TaskFolder
from proplet.sandbox.frames import Answer
from proplet.work.outgoing import Ref
from proplet.work.result_files import ResultFiles
from swashplate.errors import InvalidRequestError, SwashplateError, TooLargeError

LARGE = {"weights": [0.5] * 100_000}
REF = Ref("task", 1)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return TaskFolder(path)


@pytest.fixture
def files(tmp_path):
    return ResultFiles(tmp_path / "results")


def test_a_large_result_file_is_kept_byte_by_byte(folder, files):
    text = json.dumps(LARGE)
    (folder.path / "out" / "result.json").write_text(text)
    with pytest.raises(TooLargeError):
        results.small(Answer(), folder, daemon=False)
    kept = results.large(Answer(), folder, files.writer(REF))
    assert files.path(REF, kept.digest).read_text() == text
    assert kept.size == len(text)


@pytest.mark.parametrize(
    "wrong",
    [b"[1,]", b"[1] 2", b"NaN", b'"\xff"', b"", b"[" * 300_000, b'{"a":1}\n{"a":2}'],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_not_one_json_value_is_refused_and_not_kept(folder, files, wrong):
    (folder.path / "out" / "result.json").write_bytes(wrong)
    with pytest.raises(InvalidRequestError, match="JSON") as raised:
        results.large(Answer(), folder, files.writer(REF))
    assert raised.value.code == "result_invalid"


def test_nobody_follows_a_link_of_the_guest(folder, files, tmp_path):
    (tmp_path / "secret").write_text("[]")
    (folder.path / "out" / "result.json").symlink_to(tmp_path / "secret")
    with pytest.raises(SwashplateError) as raised:
        results.large(Answer(), folder, files.writer(REF))
    assert raised.value.code == "result_invalid"


def test_stdout_becomes_one_text_whatever_its_bytes_are(folder, files):
    content = 'é"\\\n\0'.encode() * 300_000 + b"\xff\xc3"
    (folder.path / "stdout").write_bytes(content)
    kept = results.large(Answer(), folder, files.writer(REF))
    assert json.loads(files.path(REF, kept.digest).read_bytes()) == content.decode(errors="replace")


def test_calls_of_one_deployment_have_a_file_each(folder, files):
    (folder.path / "stdout").write_bytes(b"x")
    first, second = [Ref("task", 1, call) for call in ("i", "j")]
    kept = [results.large(Answer(), folder, files.writer(ref)) for ref in (first, second)]
    files.remove(first)
    assert [files.path(ref, each.digest).exists() for ref, each in zip((first, second), kept, strict=True)] == [
        False,
        True,
    ]


def test_what_an_earlier_life_left_goes_unless_it_is_still_wanted(folder, files):
    (folder.path / "stdout").write_bytes(b"x")
    kept = results.large(Answer(), folder, files.writer(REF))
    other = results.large(Answer(), folder, files.writer(Ref("task", 2)))
    files.keep_only([REF])
    assert files.path(REF, kept.digest).exists()
    assert not files.path(Ref("task", 2), other.digest).exists()
