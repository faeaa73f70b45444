"""Runs the committed guest in wasmtime, as a proplet would: given variables and files, taking stdout, stderr and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pytest
import wasmtime

from client_wasm.build import GUEST

MEMORY_LIMIT = 64 << 20
STACK_LIMIT = 128 << 10


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: bytes
    stderr: str

    @property
    def update(self) -> dict[str, Any]:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


class RunGuest(Protocol):
    def __call__(self, env: Mapping[str, str], files: Mapping[str, bytes | str] | None = None) -> Outcome: ...


@pytest.fixture(scope="session")
def run_guest() -> RunGuest:
    return runner(GUEST)


def runner(guest: Path) -> RunGuest:
    config = wasmtime.Config()
    config.max_wasm_stack = STACK_LIMIT
    engine = wasmtime.Engine(config)
    module = wasmtime.Module.from_file(engine, str(guest))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()

    def run(env: Mapping[str, str], files: Mapping[str, bytes | str] | None = None) -> Outcome:
        with TemporaryDirectory() as scratch:
            root = Path(scratch)
            given, taken = root / "in", root / "out"
            given.mkdir()
            taken.mkdir()
            for name, content in (files or {}).items():
                path = given / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            wasi = wasmtime.WasiConfig()
            wasi.argv = ["fl-client"]
            wasi.env = list(env.items())
            if files is not None:
                wasi.preopen_dir(str(given), "/in", False)
                wasi.preopen_dir(str(taken), "/out")
            wasi.stdout_file = str(root / "stdout")
            wasi.stderr_file = str(root / "stderr")
            store = wasmtime.Store(engine)
            store.set_limits(memory_size=MEMORY_LIMIT)
            store.set_wasi(wasi)
            code = 0
            try:
                linker.instantiate(store, module).exports(store)["_start"](store)
            except wasmtime.ExitTrap as trap:
                code = trap.code
            store.close()  # flushes and closes the two files
            assert not list(taken.iterdir()), "stdout is the result; nothing belongs into /out"
            return Outcome(code, (root / "stdout").read_bytes(), (root / "stderr").read_text())

    return run


def model(w: Sequence[float], b: float = 0.0, **extra: object) -> str:
    return json.dumps({"w": list(w), "b": b, **extra})


def dataset(x: Sequence[Sequence[float]], y: Sequence[float], **extra: object) -> str:
    data = [{"x": list(row), "y": label} for row, label in zip(x, y, strict=True)]
    return json.dumps({"schema": "fl-demo-dataset-v1", "proplet_id": "p", "data": data, "size": len(data), **extra})


def environment(model_data: str, dataset_data: str, **hyperparams: object) -> dict[str, str]:
    return {"MODEL_DATA": model_data, "DATASET_DATA": dataset_data, "HYPERPARAMS": json.dumps(hyperparams)}


@pytest.fixture
def small() -> dict[str, str]:
    """Two rows of two features: enough for a valid run."""
    return environment(model([0.5, -0.25], 0.125), dataset([[1, 2], [3, -4]], [0, 1]))


@pytest.fixture
def refused(run_guest: RunGuest) -> Callable[..., str]:
    """Runs the guest, asserts that it refuses its input without an update, and returns the reason."""

    def check(env: Mapping[str, str], files: Mapping[str, bytes | str] | None = None) -> str:
        outcome = run_guest(env, files)
        assert outcome.code == 1, (outcome.code, outcome.stderr)
        assert outcome.stdout == b""
        reason = outcome.stderr.splitlines()[-1]
        assert reason.startswith("error: ")
        return reason

    return check
