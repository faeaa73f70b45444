"""The demonstration: three sites train one model on real medical data, and no row leaves its site.

Everything is done from outside, with the commands and requests that a user has. The stack is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_wasm import wdbc
from swashplate.client import HttpClient
from swashplate.errors import SwashplateError, UnavailableError
from swashplate.stack import lifecycle
from swashplate.stack.description import described
from swashplate.stack.environment import without_roles
from swashplate.stack.supervisor import die_with_parent

LINE = "wdbc"
GUEST = Path(__file__).with_name("fl-client.wasm")
HYPERPARAMS = {"epochs": 3, "lr": 0.05, "batch_size": 16, "seed": 0}
START_WITHIN_S = 90.0
TASK_WITHIN_S = 120.0

Model = dict[str, Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """``x`` float64 (rows, features), ``y`` int64 (rows,) with 1 for malignant."""

    x: Floats
    y: Integers

    def as_dataset(self) -> str:
        rows = [{"x": x, "y": y} for x, y in zip(self.x.tolist(), self.y.tolist(), strict=True)]
        return json.dumps({"schema": "fl-demo-dataset-v1", "data": rows})


@dataclass(frozen=True)
class Study:
    """The data as the demonstration uses it: standardised, split across sites, with held-out test rows."""

    sites: list[Rows]
    pooled: Rows
    test: Rows
    features: int

    def accuracy(self, model: Model) -> float:
        return wdbc.accuracy(np.array(model["w"]), float(model["b"]), self.test.x, self.test.y)

    def loss(self, model: Model) -> float:
        return wdbc.log_loss(np.array(model["w"]), float(model["b"]), self.test.x, self.test.y)


def study() -> Study:
    """Split the data; only each site's count, sums and sums of squares are pooled to standardise it."""
    x, y, names = wdbc.load()
    split = wdbc.held_out(y)
    sites = wdbc.site_rows(y, split.train)
    moments = wdbc.federated_moments([wdbc.site_sums(x[rows]) for rows in sites])
    x = wdbc.standardise(x, moments)
    return Study(
        sites=[Rows(x[rows], y[rows]) for rows in sites],
        pooled=Rows(x[split.train], y[split.train]),
        test=Rows(x[split.test], y[split.test]),
        features=len(names),
    )


@dataclass
class Round:
    number: int
    updates: int
    participants: int
    loss: float
    accuracy: float
    milliseconds: float


@dataclass
class Report:
    """What the demonstration found. Times in milliseconds; ``cold_start_ms`` is from nothing to every proplet alive."""

    cold_start_ms: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    model_version: int = 0
    accuracy: float = 0.0
    central_accuracy: float = 0.0
    site_accuracy: dict[str, float] = field(default_factory=dict)
    site_rows: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Rows and share of malignant ones at each site."""
    model_file: str = ""
    state_dir: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "rounds": len(self.rounds),
            "participants": len(self.site_rows),
            "model_version": self.model_version,
            "accuracy": self.accuracy,
            "central_accuracy": self.central_accuracy,
            "site_accuracy": self.site_accuracy,
            "round_ms": [round(each.milliseconds, 1) for each in self.rounds],
            "cold_start_ms": round(self.cold_start_ms, 1),
            "model_file": self.model_file,
        }


@asynccontextmanager
async def running_stack(folder: Path, offset: int, *, keep: bool) -> AsyncIterator[dict[str, Any]]:
    """``swashplate up`` as a process of its own; with ``keep`` it goes on after us."""
    log = folder / "up.log"
    command = [sys.executable, "-m", "swashplate", "up", "--proplets", "3", "--port-offset", str(offset)]
    command += ["--state-dir", str(folder / "state"), "--env-file", str(folder / "env")]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=without_roles(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=None if keep else die_with_parent(os.getpid()),
        )
    finished = False
    try:
        yield await _ready(process, folder / "state", log)
        finished = True
    finally:
        if process.returncode is None and not (keep and finished):
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, state: Path, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        with contextlib.suppress(SwashplateError):
            return described(state)
        if process.returncode is not None or time.monotonic() > deadline:
            said = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
            raise UnavailableError(f"the stack did not start: {said}", code="not_started")
        await asyncio.sleep(0.02)


class Demo:
    """One run against a stack that is up."""

    def __init__(self, client: HttpClient, urls: dict[str, str], participants: list[str], data: Study) -> None:
        self._client = client
        self._urls = urls
        self._participants = participants
        self._data = data
        registry = urls["oci-registry"].removeprefix("http://")
        self.image = f"{registry}/fl-client-wasm:latest"

    async def push(self) -> None:
        command = [sys.executable, "-m", "swashplate", "push", str(GUEST), self.image]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise UnavailableError(f"the guest could not be pushed: {said.decode(errors='replace').strip()}")

    async def upload(self) -> None:
        """Each site's rows go to its own data store entry; the pooled rows, for comparison only, to another."""
        entries = [*zip(self._participants, self._data.sites, strict=True), ("pooled", self._data.pooled)]
        for name, rows in entries:
            await self._client.post_json(f"{self._urls['data-store']}/datasets/{name}", rows.as_dataset())

    async def first_model(self) -> None:
        model = {"w": [0.0] * self._data.features, "b": 0.0}
        body = {"version": 0, "model": model}
        await self._client.post_json(f"{self._urls['model-registry']}/lines/{LINE}/models", body)

    async def round(self, number: int, version: int) -> tuple[Round, int, Model]:
        """Run one round on model ``version``; returns what happened, the next version, and its model."""
        round_id = f"demo-{number}"
        config = {
            "experiment_id": "demo",
            "round_id": round_id,
            "model_ref": f"fl/models/{LINE}_v{version}",
            "participants": self._participants,
            "hyperparams": {**HYPERPARAMS, "seed": number},
            "k_of_n": len(self._participants),
            "timeout_s": 60,
            "task_wasm_image": self.image,
        }
        began = time.perf_counter()
        await self._client.post_json(f"{self._urls['manager']}/fl/experiments", config)
        status = await self._client.get_json(
            f"{self._urls['coordinator']}/rounds/{round_id}/complete?wait=90", timeout=100
        )
        if not status["completed"]:
            raise UnavailableError(f"round {number} {status['status']}: {status.get('error', '')}", code="round_failed")
        following = int(status["model_version"])
        model = await self._client.get_json(f"{self._urls['model-registry']}/lines/{LINE}/models/{following}")
        milliseconds = (time.perf_counter() - began) * 1000
        done = Round(
            number=number,
            updates=status["num_updates"],
            participants=len(self._participants),
            loss=self._data.loss(model),
            accuracy=self._data.accuracy(model),
            milliseconds=milliseconds,
        )
        return done, following, model

    async def alone(self, dataset: str, rounds: int) -> float:
        """Test accuracy of the same guest on one dataset, for as many passes as the rounds had, as an ordinary task."""
        task = {
            "name": f"train-on-{dataset}",
            "image_url": self.image,
            "dataset": dataset,
            "env": {
                "MODEL_URI": f"fl/models/{LINE}_v0",
                "HYPERPARAMS": json.dumps({**HYPERPARAMS, "epochs": HYPERPARAMS["epochs"] * rounds}),
            },
            "timeout_s": TASK_WITHIN_S,
            "start": True,
        }
        made = await self._client.post_json(f"{self._urls['manager']}/tasks", task)
        deadline = time.monotonic() + TASK_WITHIN_S
        while True:
            found = await self._client.get_json(f"{self._urls['manager']}/tasks/{made['id']}")
            if found["status"] == "completed":
                result = found["results"]
                update = json.loads(result) if isinstance(result, str) else result
                return self._data.accuracy(update["update"])
            if found["status"] in {"failed", "interrupted"} or time.monotonic() > deadline:
                raise UnavailableError(f"task {found['name']} {found['status']}: {found.get('error', '')}")
            await asyncio.sleep(0.02)


async def run(rounds: int, *, keep: bool, progress: Callable[[str], None], on_round: Callable[[Round], None]) -> Report:
    """The whole demonstration. Raises ``SwashplateError``; then the folder with the logs is kept and named."""
    report = Report()
    folder = Path(tempfile.mkdtemp(prefix="swashplate-demo-"))
    try:
        data = study()
        offset = lifecycle.free_offset()
        progress("starting the stack" + (f" with every port {offset} higher" if offset else ""))
        began = time.perf_counter()
        async with running_stack(folder, offset, keep=keep) as up, HttpClient(timeout=60) as client:
            report.cold_start_ms = (time.perf_counter() - began) * 1000
            sites = dict(zip(up["proplets"], data.sites, strict=True))
            report.site_rows = {name: (len(rows.y), float(rows.y.mean())) for name, rows in sites.items()}
            demo = Demo(client, up["urls"], list(up["proplets"].values()), data)
            progress("pushing the guest, uploading each site's rows to its own data store entry")
            await demo.push()
            await demo.upload()
            await demo.first_model()
            model: Model = {}
            for number in range(1, rounds + 1):
                done, report.model_version, model = await demo.round(number, report.model_version)
                report.rounds.append(done)
                report.accuracy = done.accuracy
                on_round(done)
            progress("training on the pooled rows, and at each site alone, for as many passes")
            report.central_accuracy = await demo.alone("pooled", rounds)
            for name, proplet_id in up["proplets"].items():
                report.site_accuracy[name] = await demo.alone(proplet_id, rounds)
            file = folder / "model.json"
            file.write_text(json.dumps(model) + "\n")
            report.model_file = str(file)
            report.state_dir = str(folder / "state")
    except BaseException as error:
        if isinstance(error, SwashplateError) and any(folder.iterdir()):
            error.hint = f"{error.hint + '; ' if error.hint else ''}logs: {folder / 'state' / 'logs'}"
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not keep:
        for leftover in ("state", "env", "env.bak", "up.log"):
            path = folder / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return report
