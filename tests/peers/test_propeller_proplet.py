"""A Propeller proplet, played from recorded conversations, with our manager, proxy, coordinator and model registry."""

from __future__ import annotations

import base64
import json

import pytest

from tests.peers.conversation import load, names
from tests.peers.player import Player, call
from tests.support.stack import Stack

WHO = "propeller_proplet"


@pytest.mark.parametrize("name", names(WHO))
def test_a_conversation_with_a_propeller_proplet(proplet_player: Player, name: str):
    variables = proplet_player.variables
    variables["line"] = "line" + name.replace("-", "_")
    variables["hello_b64"] = base64.b64encode(variables["hello"]).decode()
    variables["huge_b64"] = base64.b64encode(b"\0asm" + bytes(7_000_000)).decode()
    url = f"{variables['models']}/lines/{variables['line']}/models"
    assert call("POST", url, {"version": 0, "model": {"w": [0, 0, 0], "b": 0}})[0] == 201
    proplet_player.play(load(WHO, name))
    for kind in ("start", "stop", "invoke"):
        assert proplet_player.left(f"{variables['base']}/control/manager/{kind}") == []


def learned_by(stack: Stack, name: str, round_id: str) -> dict:
    """The update that one of our proplets logged for a round."""
    for line in map(json.loads, stack.log(name).splitlines()):
        _, found, update = line["msg"].partition("completed successfully. Result: ")
        if found and line.get("round_id") == round_id:
            return json.loads(update)
    raise AssertionError(f"{name} has not learned in {round_id}")


def test_a_legacy_and_a_modern_proplet_make_one_model_together(legacy_stack, proplet_player: Player):
    stack, player, round_id = legacy_stack[0], proplet_player, "together"
    ids = player.variables["proplet"], player.variables["modern"]
    player.play(load(WHO, "00-register"))
    body = stack.experiment(round_id=round_id, participants=list(ids), k_of_n=2)
    status, told = stack.post("manager", "/fl/experiments", body)
    assert (status, sorted(one["proplet_id"] for one in told["launched"])) == (200, sorted(ids))

    started = json.loads(player.next("/".join((player.variables["base"], "control/manager/start"))).payload)
    assert started["name"] == f"fl-round-{round_id}-{ids[0]}"
    assert json.loads(started["env"]["HYPERPARAMS"]) == body["hyperparams"]
    player.say({"topic": "${base}/registry/proplet", "payload": {"app_name": started["image_url"]}})
    player.chunks({"hear": started["image_url"], "binary": "learns"})
    update = {
        "round_id": round_id,
        "proplet_id": ids[0],
        "base_model_uri": started["env"]["MODEL_URI"],
        "num_samples": 7,
        "metrics": {},
        "update": {"w": [1.0, -2.0, 0.5], "b": 3.0},
    }
    assert stack.post("coordinator", "/update", update) == (200, {"status": "accepted"})
    results = {k: update[k] for k in ("round_id", "proplet_id", "num_samples", "metrics")}
    results |= {"task_id": started["id"], "format": "f32-delta", "update_b64": {"$base64": update}}
    result = {"task_id": started["id"], "results": results, "error": None}
    player.say({"topic": "${base}/control/proplet/results", "payload": result})

    done = stack.complete(round_id)
    assert (done["completed"], done["num_updates"]) == (True, 2)
    other = learned_by(stack, "proplet-1", round_id)
    weights = {7: update["update"], other["num_samples"]: other["update"]}
    assert len(weights) == 2
    total = sum(weights)
    model = stack.get("model-registry", f"/models/{done['model_version']}")
    for i in range(3):
        assert model["w"][i] == pytest.approx(sum(n * m["w"][i] for n, m in weights.items()) / total, abs=1e-12)
    assert model["b"] == pytest.approx(sum(n * m["b"] for n, m in weights.items()) / total, abs=1e-12)
    task = stack.task_ended(started["id"])
    assert task["status"] == "completed"
    seen = stack.get("coordinator", f"/rounds/{round_id}")
    assert {p["state"] for p in seen["participants"]} == {"updated"}
    assert "update refused" not in stack.log("manager")
