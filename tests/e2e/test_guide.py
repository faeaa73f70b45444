"""The guide's steps 6 to 8 against the real stack: the same requests, the same log phrases."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import time

import paho.mqtt.client as mqtt
import pytest

from client_wasm.demo import GUEST
from tests.conftest import missing
from tests.support.stack import Stack, poll
from tests.support.wat import HELLO, SPIN

GUIDE = r"""
set -euo pipefail
if curl -sf http://localhost:8084/models/0 > /dev/null; then
    echo "Model v0 already exists, skipping initialization"
else
    curl -s -X POST http://localhost:8084/models -H "Content-Type: application/json" \
      -d '{"version": 0, "model": {"w": [0.0, 0.0, 0.0], "b": 0.0}}'
fi
echo "v0=$(curl -s http://localhost:8084/models/0)"
export PROPLET_CLIENT_ID=$(grep '^PROPLET_CLIENT_ID=' .env | grep -v '=""' | tail -1 | cut -d '=' -f2 | tr -d '"')
export PROPLET_2_CLIENT_ID=$(grep '^PROPLET_2_CLIENT_ID=' .env | cut -d '=' -f2 | tr -d '"')
export PROPLET_3_CLIENT_ID=$(grep '^PROPLET_3_CLIENT_ID=' .env | cut -d '=' -f2 | tr -d '"')
echo "answer=$(curl -s -X POST http://localhost:7070/fl/experiments \
  -H "Content-Type: application/json" \
  -d "{
    \"experiment_id\": \"exp-r-$(date +%s)\",
    \"round_id\": \"r-$(date +%s)\",
    \"model_ref\": \"fl/models/global_model_v0\",
    \"participants\": [\"$PROPLET_CLIENT_ID\", \"$PROPLET_2_CLIENT_ID\", \"$PROPLET_3_CLIENT_ID\"],
    \"hyperparams\": {\"epochs\": 1, \"lr\": 0.01, \"batch_size\": 16},
    \"k_of_n\": 3,
    \"timeout_s\": 60,
    \"task_wasm_image\": \"local-registry:5000/fl-client-wasm:latest\"
  }")"
"""


def shifted(text: str, offset: int) -> str:
    return re.sub(r"localhost:(\d+)", lambda found: f"localhost:{int(found[1]) + offset}", text)


def payloads(log: str, round_id: str) -> list[dict]:
    """What each guest printed as its update in this round."""
    lines = [json.loads(line) for line in log.splitlines() if "DEBUG: Update payload" in line]
    found = [json.loads(line["msg"].partition("DEBUG: Update payload: ")[2]) for line in lines]
    return [update for update in found if update["round_id"] == round_id]


def weighted_mean(updates: list[dict]) -> tuple[list[float], float]:
    total = sum(u["num_samples"] for u in updates)
    w = [sum(u["num_samples"] * u["update"]["w"][i] for u in updates) / total for i in range(3)]
    return w, sum(u["num_samples"] * u["update"]["b"] for u in updates) / total


@pytest.fixture(params=["embedded", "mosquitto"])
def fresh(tmp_path, request):
    """A stack that has never run a round, with each of the brokers that it can run."""
    request.getfixturevalue({"embedded": "nats_server"}.get(request.param, request.param))
    with Stack(tmp_path, broker=request.param) as running:
        running.push(GUEST)
        yield running


def test_steps_6_to_8_of_the_guide(fresh):
    stack = fresh
    if shutil.which("curl") is None:
        missing("curl is not installed")
    (stack.folder / ".env").unlink(missing_ok=True)
    (stack.folder / ".env").symlink_to(stack.env_file)
    done = subprocess.run(
        ["bash", "-c", shifted(GUIDE, stack.offset)], cwd=stack.folder, capture_output=True, text=True, check=True
    )
    assert 'v0={"w":[0,0,0],"b":0}' in done.stdout
    answer = json.loads(re.search(r"answer=(.*)", done.stdout)[1])
    round_id = answer["round_id"]
    assert answer["status"] == "configured"
    assert answer["experiment_id"].startswith("exp-r-")
    assert sorted(each["proplet_id"] for each in answer["launched"]) == sorted(stack.proplets)

    status = stack.complete(round_id)
    assert (status["completed"], status["num_updates"]) == (True, 3)
    model = stack.get("model-registry", "/models/1")
    proplets = stack.log("proplet-1", "proplet-2", "proplet-3")
    updates = payloads(proplets, round_id)
    assert sorted(u["proplet_id"] for u in updates) == sorted(stack.proplets)
    w, b = weighted_mean(updates)
    assert model["w"] == pytest.approx(w, abs=1e-12)
    assert model["b"] == pytest.approx(b, abs=1e-12)
    assert all(model["w"])
    assert model["b"]

    manager = [json.loads(line) for line in stack.log("manager").splitlines()]
    launched = [
        line["proplet_id"]
        for line in manager
        if line["msg"] == "launched task for FL round participant" and line.get("round_id") == round_id
    ]
    assert sorted(launched) == sorted(stack.proplets)
    coordinator = [line for line in stack.log("coordinator").splitlines() if round_id in line]
    assert sum("Received update" in line for line in coordinator) == 3
    for phrase in (
        "Received experiment configuration",
        "Round complete: received k_of_n updates",
        "Aggregated model stored",
    ):
        assert any(phrase in line for line in coordinator), phrase
    for phrase in ("sent container chunk", "successfully sent all chunks", "Received container request"):
        assert phrase in stack.log("proxy"), phrase
    for phrase in (
        "Requesting binary from registry: local-registry:5000/fl-client-wasm:latest",
        "Assembled binary",
        "Executing task",
        "Starting Host runtime",
        "completed successfully",
        "Fetching dataset from Local Data Store",
        "Successfully fetched dataset with 64 samples and passed to client",
        "Loaded dataset with 64 samples from Local Data Store",
        "DEBUG: Initial model - w: [0.000000, 0.000000, 0.000000], b: 0.000000",
        "DEBUG: First sample - x:",
        "DEBUG: Final model after training - w:",
    ):
        assert phrase in proplets, phrase
    assert all(round_id in stack.log(name) for name in ("proplet-1", "proplet-2", "proplet-3"))
    assert "Dataset seeded" in stack.log("data-store")
    assert "Dataset served" in stack.log("data-store")
    assert "Dataset missing" not in stack.log("data-store")


def test_the_seeded_datasets_are_those_of_the_guide(stack):
    for proplet_id in stack.proplets:
        found = stack.get("data-store", f"/datasets/{proplet_id}")
        assert (found["schema"], found["proplet_id"], found["size"]) == ("fl-demo-dataset-v1", proplet_id, 64)
        assert {row["y"] for row in found["data"]} == {0, 1}
        assert all(0 <= value <= 0.9 for row in found["data"] for value in row["x"])


def publish(stack, topic: str, body: dict) -> None:
    env = dict(line.split("=", 1) for line in stack.env_file.read_text().splitlines() if "=" in line)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "a-user")
    client.username_pw_set(env["MANAGER_CLIENT_ID"], env["MANAGER_CLIENT_KEY"])
    client.connect("localhost", 1883 + stack.offset)
    client.loop_start()
    client.publish(
        topic.format(base=f"m/{env['MANAGER_DOMAIN_ID']}/c/{env['MANAGER_CHANNEL_ID']}"), json.dumps(body)
    ).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("topic", ["fl/rounds/start", "{base}/fl/rounds/start"])
def test_option_b_starts_a_round_by_a_message(stack, line, topic):
    body = stack.experiment(model_uri=f"fl/models/{line}_v0", k_of_n=2, timeout_s=30)
    for name in ("model_ref", "experiment_id"):
        del body[name]
    publish(stack, topic, body)
    deadline = time.monotonic() + 20
    while stack.call("GET", f"{stack.url('coordinator')}/rounds/{body['round_id']}")[0] == 404:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    status = stack.complete(body["round_id"])
    assert (status["completed"], status["k_of_n"]) == (True, 2)
    assert stack.get("model-registry", f"/lines/{line}/models/1")["w"] != [0, 0, 0]


def test_a_second_round_sends_no_chunk_and_is_the_next_version(stack, line):
    stack.post("manager", "/fl/experiments", first := stack.experiment(model_ref=f"fl/models/{line}_v0"))
    assert stack.complete(first["round_id"])["model_version"] == 1
    sent = stack.log("proxy").count("sent container chunk")
    status, _ = stack.post("manager", "/fl/experiments", second := stack.experiment(model_ref=f"fl/models/{line}_v1"))
    assert status == 200
    assert stack.complete(second["round_id"])["model_version"] == 2
    assert stack.log("proxy").count("sent container chunk") == sent


def test_instance_ids_are_skipped_with_the_guides_log_line_and_no_round_stays_open(stack, line):
    body = stack.experiment(model_ref=f"fl/models/{line}_v0", participants=["proplet-1", "proplet-2", "proplet-3"])
    status, answer = stack.post("manager", "/fl/experiments", body)
    assert 400 <= status < 500
    assert "proplet-1" in answer["error"]
    assert "PROPLET_CLIENT_ID" in answer["hint"]
    skipped = [json.loads(each) for each in stack.log("manager").splitlines() if "skipping participant" in each]
    assert {"level": "WARN", "msg": "skipping participant: proplet not found", "error": "not found"}.items() <= skipped[
        -1
    ].items()
    assert skipped[-1]["proplet_id"].startswith("proplet-")
    assert "only labels" in skipped[-1]["hint"]
    found, state = stack.call("GET", f"{stack.url('coordinator')}/rounds/{body['round_id']}/complete")
    assert found == 404 or (not state["completed"] and state["status"] == "cancelled")


def test_one_unknown_participant_does_not_stop_the_others(stack, line):
    body = stack.experiment(model_ref=f"fl/models/{line}_v0", participants=[*stack.proplets, "stranger"], k_of_n=3)
    status, answer = stack.post("manager", "/fl/experiments", body)
    assert (status, len(answer["launched"])) == (200, 3)
    assert [(each["proplet_id"], each["reason"]) for each in answer["skipped"]] == [("stranger", "not found")]
    assert stack.complete(body["round_id"])["completed"]


def test_the_same_round_again_is_answered_alike_and_launches_nothing_twice(stack, line):
    body = stack.experiment(model_ref=f"fl/models/{line}_v0")
    first = stack.post("manager", "/fl/experiments", body)
    again = stack.post("manager", "/fl/experiments", body)
    assert first == again
    stack.complete(body["round_id"])
    tasks = [task for task in stack.get("manager", "/tasks")["tasks"] if body["round_id"] in task["name"]]
    assert len(tasks) == 3
    status, answer = stack.post("manager", "/fl/experiments", {**body, "k_of_n": 2})
    assert status == 409, answer


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k_of_n": 4}, "k_of_n"),
        ({"k_of_n": "3"}, "k_of_n"),
        ({"participants": []}, "participants"),
        ({"model_ref": "nonsense"}, "nonsense"),
        ({"round_id": "a/b"}, "round_id"),
        ({"task_wasm_image": ""}, "task_wasm_image"),
    ],
)
def test_a_wrong_experiment_is_a_400_naming_the_field(stack, change, named):
    status, answer = stack.post("manager", "/fl/experiments", stack.experiment(**change))
    assert status == 400, answer
    assert named in answer["error"]


def test_malformed_json_is_a_400_at_every_service(stack):
    paths = {
        "manager": ["/tasks", "/fl/experiments", "/fl/update"],
        "coordinator": ["/experiments", "/update"],
        "model-registry": ["/models"],
        "aggregator": ["/aggregate"],
        "data-store": ["/datasets/x"],
    }
    for service, found in paths.items():
        for path in found:
            for bad in (b"{", b"[]", b"null", b"\xff", b'{"a":NaN}', b"[" * 100_000):
                status, answer = stack.call("POST", stack.url(service) + path, bad)
                assert status == 400, (service, path, bad[:10], status, answer)
                assert answer["error"]


def test_a_missing_model_is_told_when_the_round_is_configured(stack):
    status, answer = stack.post("manager", "/fl/experiments", stack.experiment(model_ref="fl/models/nowhere_v7"))
    assert status in {400, 404}
    assert "nowhere" in answer["error"]


def test_a_round_whose_participants_cannot_train_fails_with_the_reason(stack, line):
    """Thirty features in the model, three in the data: the guest refuses, and the round says why long before its timeout."""
    stack.post("model-registry", f"/lines/{line}wide/models", {"version": 0, "model": {"w": [0] * 30, "b": 0}})
    body = stack.experiment(model_ref=f"fl/models/{line}wide_v0")
    stack.post("manager", "/fl/experiments", body)
    status = stack.complete(body["round_id"], within=30)
    assert (status["completed"], status["status"]) == (False, "failed")
    assert "30" in status["error"]
    assert stack.call("GET", f"{stack.url('model-registry')}/lines/{line}wide/models/1")[0] == 404


def test_a_missing_dataset_fails_the_task_loudly(stack):
    task = {
        "name": "t",
        "image_url": stack.image,
        "dataset": "nobodys",
        "env": {"MODEL_URI": "fl/models/global_model_v0"},
        "start": True,
    }
    _, made = stack.post("manager", "/tasks", task)
    ended = stack.task_ended(made["id"])
    assert (ended["status"], ended["code"]) == ("failed", "dataset_not_found")


def test_a_file_that_is_not_wasm_fails_the_task(stack, tmp_path):
    _, answer = stack.post("manager", "/tasks", {"name": "t", "file": "bm90IHdhc20=", "start": True})
    assert "WASM" in answer["error"]
    _, made = stack.post(
        "manager", "/tasks", {"name": "t", "image_url": stack.image.replace("fl-client", "none"), "start": True}
    )
    ended = stack.task_ended(made["id"])
    assert (ended["status"], ended["code"]) == ("failed", "image_not_found")


def test_an_altered_blob_in_the_registry_never_runs(stack, tmp_path):
    file = tmp_path / "hello.wasm"
    file.write_bytes(HELLO)
    image = stack.push(file, "hello:1")
    digest = hashlib.sha256(HELLO).hexdigest()
    stored = [path for path in (stack.state / "oci-registry").rglob("*") if path.name == digest]
    assert stored
    for path in stored:
        path.write_bytes(HELLO[:-1] + bytes([HELLO[-1] ^ 1]))
    _, made = stack.post("manager", "/tasks", {"name": "t", "image_url": image, "start": True})
    ended = stack.task_ended(made["id"])
    assert ended["status"] == "failed"
    assert "digest" in ended["error"]


def test_an_uploaded_file_runs_and_its_output_is_the_result(stack):
    file = base64.b64encode(HELLO).decode()
    _, made = stack.post("manager", "/tasks", {"name": "t", "file": file, "start": True})
    ended = stack.task_ended(made["id"])
    assert (ended["status"], ended["results"]) == ("completed", "hello\n"), ended


def test_a_guest_that_never_ends_is_stopped_and_the_proplet_goes_on(stack):
    def task(guest):
        return {"name": "t", "file": base64.b64encode(guest).decode(), "proplet_id": stack.proplets[0], "start": True}

    _, made = stack.post("manager", "/tasks", task(SPIN))
    poll(lambda: stack.get("manager", f"/tasks/{made['id']}")["status"] == "running")
    assert stack.post("manager", f"/tasks/{made['id']}/stop", None)[0] == 200
    poll(lambda: stack.get("manager", f"/tasks/{made['id']}")["status"] == "interrupted", within=2)
    _, late = stack.post("manager", "/tasks", {**task(SPIN), "timeout_s": 0.5})
    assert stack.task_ended(late["id"])["code"] == "timeout"
    _, after = stack.post("manager", "/tasks", task(HELLO))
    assert stack.task_ended(after["id"])["results"] == "hello\n"
