"""Many rounds, and in each of them a process killed at a moment of its own. Run by ``scripts/test --soak``."""

from __future__ import annotations

import contextlib
import json
import random
import time

import pytest

from client_wasm.demo import GUEST
from tests.support.stack import Stack, poll

ROUNDS = 60
VICTIMS = ["manager", "coordinator", "proxy", "broker", "proplet-1", "proplet-2", "proplet-3"]


def posted(stack, body: dict) -> dict:
    """As a careful client: the same request again until it is answered."""

    def attempt():
        try:
            status, answer = stack.post("manager", "/fl/experiments", body)
        except OSError:
            return None
        return answer if status == 200 else None

    return poll(attempt, within=30)


def everybody_lives(stack) -> bool:
    with contextlib.suppress(OSError):
        return all(proplet["alive"] for proplet in stack.get("manager", "/proplets")["proplets"])
    return False


def weighted_mean(updates: list[dict]) -> list[float]:
    total = sum(update["num_samples"] for update in updates)
    return [sum(u["num_samples"] * u["update"]["w"][i] for u in updates) / total for i in range(3)]


def updates_of(stack, round_id: str) -> dict[str, dict]:
    """What each proplet's guest printed in this round; a repeated attempt prints the same."""
    found = {}
    for line in stack.log("proplet-1", "proplet-2", "proplet-3").splitlines():
        if round_id in line and "DEBUG: Update payload" in line:
            update = json.loads(json.loads(line)["msg"].partition("DEBUG: Update payload: ")[2])
            assert found.setdefault(update["proplet_id"], update) == update
    return found


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1])
def test_rounds_survive_kills_at_random_moments(tmp_path, nats_server, seed):
    chance = random.Random(seed)
    with Stack(tmp_path) as stack:
        stack.push(GUEST)
        killed = []
        for version in range(ROUNDS):
            body = stack.experiment(model_ref=f"fl/models/global_model_v{version}", timeout_s=60)
            poll(lambda: everybody_lives(stack))
            posted(stack, body)
            time.sleep(chance.uniform(0, 0.15))
            victim = chance.choice(VICTIMS)
            with contextlib.suppress(AssertionError):  # still on its way back from the last time
                stack.kill(victim)
                killed.append(victim)
            status = stack.complete(body["round_id"], within=90)
            assert (status["completed"], status["num_updates"]) == (True, 3), (version, victim, status)
            assert status["model_version"] == version + 1
            model = stack.get("model-registry", f"/models/{version + 1}")
            updates = updates_of(stack, body["round_id"])
            assert sorted(updates) == sorted(stack.proplets)
            assert model["w"] == pytest.approx(weighted_mean(list(updates.values())), abs=1e-12)
        assert stack.get("model-registry", "/models")["versions"] == list(range(ROUNDS + 1))
        poll(lambda: everybody_lives(stack))
        tasks = [
            task
            for page in range(0, 3 * ROUNDS, 100)
            for task in stack.get("manager", f"/tasks?offset={page}")["tasks"]
        ]
        for task in tasks:
            stack.task_ended(task["id"])
        print(f"{ROUNDS} rounds, killed: { {name: killed.count(name) for name in VICTIMS} }")
