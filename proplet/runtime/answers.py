"""What a worker process answers, looked at before it is believed: a guest that broke out may be what answers."""

from __future__ import annotations

import math
import re

from pydantic import TypeAdapter

from proplet.sandbox.entry import LONGEST_SENTENCE
from proplet.sandbox.frames import Answer

MOST_CHARACTERS = 16 * LONGEST_SENTENCE
"""Of a sentence: what cannot be printed of a guest's names is told by its number."""
DIGEST = re.compile(r"(sha256:[0-9a-f]{64})?")
CODE = re.compile(r"[a-z0-9_:]{0,64}")
USED = {"wall_s", "cpu_s", "memory_bytes", "table_elements", "output_bytes", "output_files", "log_bytes", "fuel"}

_answer = TypeAdapter(Answer)


def answer_of(payload: bytes) -> Answer:
    """Raises ``ValueError`` for what no process says that is still as we started it."""
    answer = _answer.validate_json(payload, strict=True, extra="forbid")
    numbers = *answer.used.values(), *answer.spent
    usual = (
        len(answer.error) <= MOST_CHARACTERS
        and CODE.fullmatch(answer.code)
        and DIGEST.fullmatch(answer.inputs_digest)
        and DIGEST.fullmatch(answer.output_digest)
        and answer.used.keys() <= USED
        and len(answer.spent) in {0, 3}
        and all(math.isfinite(number) and number >= 0 for number in numbers)
    )
    if not usual:
        raise ValueError("no answer of ours")
    return answer
