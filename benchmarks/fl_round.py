"""One warm federated round on the whole stack: request to readable new version.

Three proplets, the guide's model of three weights and a bias, 64 rows each. The first round, which fetches and compiles
the guest, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Report
from client_wasm.demo import GUEST, running_stack
from swashplate.client import HttpClient
from swashplate.stack import lifecycle

# Three clients, three floats, train only, on two cores; the round time is that of its round loop, which polls.
FLOWER = {"cited": 6170.0, "source": "Flower 1.41 deployment engine, 3 clients, 3 floats, 2 cores, Python 3.11"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=50, help="how many rounds to time (default 50)")


async def measure(rounds: int) -> list[float]:
    """Milliseconds of each round, the first and cold one left out."""
    times = []
    with tempfile.TemporaryDirectory(prefix="swashplate-bench-") as folder:
        async with (
            running_stack(Path(folder), lifecycle.free_offset(), keep=False) as up,
            HttpClient(timeout=60) as client,
        ):
            urls = up["urls"]
            image = urls["oci-registry"].removeprefix("http://") + "/fl-client-wasm:latest"
            push = [sys.executable, "-m", "swashplate", "push", str(GUEST), image]
            await asyncio.to_thread(subprocess.run, push, check=True, capture_output=True)
            for number in range(rounds + 1):
                config = {
                    "round_id": f"r-{number}",
                    "model_ref": f"fl/models/global_model_v{number}",
                    "participants": list(up["proplets"].values()),
                    "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
                    "task_wasm_image": image,
                }
                began = time.perf_counter()
                await client.post_json(f"{urls['manager']}/fl/experiments", config)
                await client.get_json(f"{urls['coordinator']}/rounds/r-{number}/complete?wait=60")
                await client.get_json(f"{urls['model-registry']}/models/{number + 1}")
                times.append((time.perf_counter() - began) * 1000)
    return times[1:]


def run(options: argparse.Namespace) -> Report:
    times = asyncio.run(measure(options.rounds))
    return Report("fl-round", "ms", statistics.median(times), len(times), {"flower-1.41": dict(FLOWER)})
