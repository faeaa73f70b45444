"""What a user reads when a process does not become ready."""

from __future__ import annotations

import json
import os
import sys

import pytest

from swashplate.client import HttpClient
from swashplate.errors import UnavailableError
from swashplate.stack.readiness import Readiness
from swashplate.stack.supervisor import Child, Supervisor
from tests.support.ports import free_port

LINE = {
    "time": "2026",
    "msg": "setting X: expected a number",
    "hint": "such as 3",
    "code": "configuration",
    "y": "z" * 600,
}


async def test_a_process_that_keeps_ending_is_told_by_the_words_of_its_log(tmp_path):
    says = [sys.executable, "-c", f"import sys; sys.exit({json.dumps(LINE)!r})"]
    port = free_port()
    child = Child(
        name="x",
        command=says,
        env=dict(os.environ),
        log_file=tmp_path / "x.log",
        ready_url=f"http://127.0.0.1:{port}/health",
    )
    supervisor = Supervisor(lambda _: None)
    try:
        async with HttpClient() as client:
            ready = Readiness([child], client, within=1)
            await supervisor.start(child)
            with pytest.raises(UnavailableError) as caught:
                await ready.wait(child)
    finally:
        await supervisor.close()
    assert caught.value.sentence == (
        f"x does not become ready: GET http://127.0.0.1:{port}/health failed: Connection refused; "
        "its log ends with: setting X: expected a number (such as 3)"
    )
