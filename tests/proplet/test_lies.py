"""What a guest that broke out of the runtime may tell the agent in the name of its process."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest

from proplet.runtime.answers import answer_of
from proplet.sandbox.entry import LONGEST_SENTENCE, GuestError
from proplet.sandbox.frames import Answer

LONGEST = GuestError("\U000e0001" * (LONGEST_SENTENCE + 1), "x").sentence
LIES = {
    "an endless error": {"error": "x" * 3_000_000},
    "an endless code": {"error": "x", "code": "x" * 1000},
    "words for numbers": {"used": {"wall_s": "long"}},
    "no number": {"used": {"wall_s": float("nan")}},
    "infinitely much": {"used": {"log_bytes": float("inf")}},
    "less than nothing": {"used": {"log_bytes": -1}},
    "an unknown number": {"used": {"x": 1}},
    "a number for a text": {"text": 5},
    "a list for an error": {"error": ["x"]},
    "words for what was spent": {"spent": ["a", "b", "c"]},
    "too little spent": {"spent": [1.0]},
    "no digest": {"output_digest": "x"},
    "an unknown field": {"x": 1},
}
LIAR = """#!{python}
import os, sys

lies = '''
from proplet.sandbox import worker
honest = worker.perform

def perform(job, modules, watch):
    answer = honest(job, modules, watch)
    if job.name == "liar":
        answer.used["wall_s"] = "long"
    return answer

worker.perform = perform
'''
begin, birth = sys.argv[3].split("from proplet.sandbox import birth")
os.execv({python!r}, [{python!r}, *sys.argv[1:3], begin + lies + "from proplet.sandbox import birth" + birth, *sys.argv[4:]])
"""


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_none_of_our_processes_says_is_not_believed(lie):
    with pytest.raises(ValueError, match=r"no answer of ours|validation error"):
        answer_of(json.dumps({**asdict(Answer()), **lie}).encode())


def test_what_they_say_is():
    digest = "sha256:" + "a" * 64
    failed = Answer(
        None, LONGEST, "trap:other", used={"fuel": 1, "wall_s": 0.5}, output_digest=digest, spent=[0.1, 0, 0]
    )
    for answer in (Answer(), Answer("text"), failed):
        assert answer_of(json.dumps(asdict(answer)).encode()) == answer


async def test_a_lie_ends_its_own_attempt_and_nothing_else(world, guests, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(LIAR.format(python=sys.executable))
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    async with world.proplet():
        told = await world.manager.outcome(world.start(guests["prints"]("x"), name="liar"))
        assert (told.code, told.retryable) == ("worker_died", True)
        honest = await world.manager.outcome(world.start(guests["prints"]("x")))
        assert (honest.results, honest.error) == ("x", None)
