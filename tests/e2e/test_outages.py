"""Each HTTP service away for a while in the middle of a round: the round completes, every update counts once."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from client_wasm.demo import GUEST
from swashplate.stack import control
from tests.support.stack import poll

BEFORE_THE_ROUND = ("data-store", "oci-registry", "proxy", "aggregator")
"""What the launch does not need, or must wait for."""
DURING_THE_ROUND = ("manager", "coordinator", "model-registry")
"""What takes the request for the round: stopped when all tasks are launched and no proplet has begun."""


def lose(stack, service: str) -> None:
    """Killed, and not started again by the supervisor."""
    stack.kill(service)
    ask(stack, "stop", service)


def ask(stack, do: str, service: str) -> None:
    control.ask(stack.state, control.Request(do=do, services=[service]), lambda _: None)


@contextmanager
def frozen_proplets(stack):
    pids = [stack.pid(f"proplet-{number}") for number in (1, 2, 3)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def unlike_any_before(folder: Path, name: str) -> Path:
    """The guest with a custom section of its own, so that nobody has it in a cache."""
    section = bytes([len(name)]) + name.encode()
    file = folder / "guest.wasm"
    file.write_bytes(GUEST.read_bytes() + b"\0" + bytes([len(section)]) + section)
    return file


def updates_of(stack, round_id: str) -> list[dict]:
    found = {}
    for line in stack.log("proplet-1", "proplet-2", "proplet-3").splitlines():
        if round_id in line and "DEBUG: Update payload" in line:
            update = json.loads(json.loads(line)["msg"].partition("DEBUG: Update payload: ")[2])
            assert found.setdefault(update["proplet_id"], update) == update
    return list(found.values())


def outage(stack, line: str, service: str, seconds: float, folder: Path) -> float:
    """A round with ``service`` away for ``seconds``; how long the round took after the service's return."""
    image = stack.push(unlike_any_before(folder, f"{service} {time.time_ns()}"), f"outage-{service}:latest")
    body = stack.experiment(model_ref=f"fl/models/{line}_v0", task_wasm_image=image, timeout_s=60)

    def post() -> None:
        status, answer = stack.post("manager", "/fl/experiments", body)
        assert (status, len(answer["launched"])) == (200, 3), answer

    if service in DURING_THE_ROUND:
        with frozen_proplets(stack):
            post()
            lose(stack, service)
    else:
        lose(stack, service)
        post()
    time.sleep(seconds)  # the outage itself
    ask(stack, "start", service)
    back = time.monotonic()
    status = stack.complete(body["round_id"])
    took = time.monotonic() - back
    assert (status["completed"], status["num_updates"], status["model_version"]) == (True, 3, 1), status
    updates = updates_of(stack, body["round_id"])
    assert sorted(update["proplet_id"] for update in updates) == sorted(stack.proplets)
    total = sum(update["num_samples"] for update in updates)
    mean = [sum(u["num_samples"] * u["update"]["w"][i] for u in updates) / total for i in range(3)]
    assert stack.get("model-registry", f"/lines/{line}/models/1")["w"] == pytest.approx(mean, abs=1e-12)
    assert stack.get("model-registry", f"/lines/{line}/models")["versions"] == [0, 1]
    counted = [each for each in stack.log("coordinator").splitlines() if "Received update" in each]
    assert sum(body["round_id"] in each for each in counted) == 3
    poll(lambda: all(proplet["alive"] for proplet in stack.get("manager", "/proplets")["proplets"]))
    return took


@pytest.mark.parametrize("service", ["data-store", "oci-registry"])
def test_a_round_survives_a_short_outage_of(stack, line, tmp_path, service):
    outage(stack, line, service, 2, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("service", [*BEFORE_THE_ROUND, *DURING_THE_ROUND])
def test_a_round_survives_ten_seconds_without(stack, line, tmp_path, service):
    took = outage(stack, line, service, 10, tmp_path)
    print(f"{service} away for 10 s: the round was complete {took:.1f} s after its return")
