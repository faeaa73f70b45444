"""The demonstration as a program runs it."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_demo_answers_with_one_json_object_and_leaves_nothing(nats_server):
    command = [sys.executable, "-m", "swashplate", "demo", "--json", "--rounds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rounds"], found["participants"], found["model_version"]) == (3, 3, 3)
    assert len(found["round_ms"]) == 3
    assert len(found["site_accuracy"]) == 3
    assert 0.9 <= found["accuracy"] <= 1
    assert abs(found["accuracy"] - found["central_accuracy"]) <= 0.05
    assert found["cold_start_ms"] > 0
    assert "round   3   updates 3/3" in done.stderr
    assert len(json.loads(Path(found["model_file"]).read_text())["w"]) == 30
