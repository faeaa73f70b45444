"""500 tasks with outputs of their own flow while manager, proplets and broker are killed: none is lost, none counts twice."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest
import wasmtime

from tests.support.stack import Stack, poll

TASKS = 500
CLIENTS = 4
ADD = '(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))'
VICTIMS = ["manager", "proplet-1", "proplet-2", "broker"]
OFFSET = 1_000_000


def created(stack: Stack, image: str, number: int) -> str:
    """As a careful client: the same request under the same key until it is answered."""
    body = {
        "name": "add",
        "image_url": image,
        "inputs": [number, OFFSET],
        "cli_args": ["--invoke", "add"],
        "retries": 5,
        "timeout_s": 120,
        "start": True,
    }

    def attempt() -> str | None:
        with contextlib.suppress(OSError, HTTPException):
            status, answer = stack.call(
                "POST", f"{stack.url('manager')}/tasks", body, headers={"Idempotency-Key": f"task-{number}"}
            )
            if status in {200, 201}:
                return str(answer["id"])
            assert status == 503, answer
        return None

    return poll(attempt, within=60)


def killed_meanwhile(stack: Stack, chance: random.Random, kills: int, over: threading.Event) -> Counter[str]:
    """Each victim in turn comes first, so that few kills reach everybody; it may still be on its way back from the last."""
    killed: Counter[str] = Counter()
    while killed.total() < kills and not over.wait(chance.uniform(0.1, 0.8)):
        victim = VICTIMS[killed.total()] if killed.total() < len(VICTIMS) else chance.choice(VICTIMS)
        with contextlib.suppress(AssertionError, ProcessLookupError):
            stack.kill(victim)
            killed[victim] += 1
    return killed


def everybody_lives(stack: Stack) -> bool:
    with contextlib.suppress(OSError, HTTPException):
        return all(proplet["alive"] for proplet in stack.get("manager", "/proplets")["proplets"])
    return False


def flow(stack: Stack, *, seed: int, kills: int) -> Counter[str]:
    """Bring batches of tasks through until there were ``kills`` kills, and check every single task of every batch.

    A batch sees a few: who dies again and again is started again later and later, by design.
    """
    chance, killed, first = random.Random(seed), Counter[str](), 0
    image = stack.push(wasm_file(stack), "add:latest")
    while killed.total() < kills:
        poll(lambda: everybody_lives(stack), within=90)
        over = threading.Event()
        now = min(len(VICTIMS), kills - killed.total())
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            murders = pool.submit(killed_meanwhile, stack, chance, now, over)
            made = list(pool.map(lambda number: created(stack, image, number), range(first, first + TASKS)))
            ids = dict(zip(range(first, first + TASKS), made, strict=True))
            shown = {number: stack.task_ended(task_id) for number, task_id in ids.items()}
            over.set()
            killed += murders.result()
        assert len(set(ids.values())) == TASKS
        check(stack, shown)
        first += TASKS
    return killed


def wasm_file(stack: Stack):
    file = stack.folder / "add.wasm"
    file.write_bytes(wasmtime.wat2wasm(ADD))
    return file


def check(stack: Stack, shown: dict[int, dict]) -> None:
    for number, task in shown.items():
        if task["status"] == "failed":
            assert task["error"], task
            assert task["code"], task
            continue
        assert (task["status"], task["results"]) == ("completed", str(number + OFFSET)), task
        attempts = stack.get("manager", f"/tasks/{task['id']}/attempts")["attempts"]
        assert [each["status"] for each in attempts].count("completed") == 1, attempts
        assert attempts[-1]["status"] == "completed"
    completed = sum(task["status"] == "completed" for task in shown.values())
    assert completed >= TASKS * 0.95, Counter(task.get("code") for task in shown.values())


@pytest.fixture(params=["sqlite", "postgres"])
def env(request) -> str:
    """What the env file says about the manager's database."""
    if request.param == "sqlite":
        return ""
    url = request.getfixturevalue("postgres_server").new_database()
    return f"MANAGER_DATABASE_URL={url.render_as_string(hide_password=False)}\n"


@pytest.mark.timeout(300)
def test_tasks_survive_the_death_of_each_process(tmp_path, nats_server, env):
    with Stack(tmp_path, proplets=2, env=env) as stack:
        killed = flow(stack, seed=1, kills=4)
        assert set(killed) == set(VICTIMS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_tasks_survive_fifty_kills(tmp_path, nats_server, env):
    began = time.monotonic()
    with Stack(tmp_path, proplets=2, env=env) as stack:
        killed = flow(stack, seed=2, kills=50)
    print(f"50 kills in {time.monotonic() - began:.0f} s: {dict(killed)}")
