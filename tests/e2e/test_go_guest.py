"""The guest that people build with Go, in whole rounds on a real stack."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.go, pytest.mark.timeout(600)]  # the first build compiles Go's standard library


def lines_of(stack, name: str) -> list[dict]:
    return [json.loads(line) for line in stack.log(name).splitlines()]


def test_rounds_with_the_go_guest_learn_what_the_c_guest_learns_and_compile_once_per_proplet(stack, line, go_guest):
    names = ("proplet-1", "proplet-2", "proplet-3")
    image = stack.push(go_guest, "fl-client-go:latest")
    other = f"{line}_c"
    stack.post("model-registry", f"/lines/{other}/models", {"version": 0, "model": {"w": [0, 0, 0], "b": 0}})
    for version in range(3):
        body = stack.experiment(model_ref=f"fl/models/{line}_v{version}", task_wasm_image=image)
        status, answer = stack.post("manager", "/fl/experiments", body)
        assert status == 200, answer
        assert stack.complete(body["round_id"])["model_version"] == version + 1
        in_c = stack.experiment(model_ref=f"fl/models/{other}_v{version}")
        stack.post("manager", "/fl/experiments", in_c)
        assert stack.complete(in_c["round_id"])["completed"]
        go, c = (stack.get("model-registry", f"/lines/{each}/models/{version + 1}") for each in (line, other))
        assert [*go["w"], go["b"]] == pytest.approx([*c["w"], c["b"]], abs=1e-9)
        assert all(go["w"])
    for name in names:
        logged = lines_of(stack, name)
        compiled = [each for each in logged if "Compiled the module" in each["msg"] and "fl-client-go" in each["msg"]]
        assert len(compiled) == 1, name
        stderr = [
            each["msg"].split(":")[0].split(" - ")[0]
            for each in logged
            if each.get("stream") == "stderr" and each["task_id"] == compiled[0]["task_id"]
        ]
        assert stderr == [
            "TASK_REQUEST",
            "Loaded dataset with 64 samples from Local Data Store",
            "DEBUG",
            "DEBUG",
            "DEBUG",
            "DEBUG",
            "UPDATE_REQUEST",
        ]
