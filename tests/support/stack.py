"""A whole stack for tests: ``swashplate up`` as a user starts it, on ports of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from swashplate.errors import NotFoundError
from swashplate.stack import control
from swashplate.stack.description import described
from swashplate.stack.environment import without_roles
from tests.support.ports import free_offset

PATIENCE = 60.0
T = TypeVar("T")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def poll(question: Callable[[], T], *, within: float = PATIENCE) -> T:
    """Ask until the answer is true; the last answer is in the error."""
    deadline = time.monotonic() + within
    while True:
        found = question()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {question}")
        time.sleep(0.01)


class Stack:
    def __init__(
        self,
        folder: Path,
        *,
        proplets: int = 3,
        offset: int | None = None,
        broker: str = "embedded",
        env: str = "",
    ) -> None:
        """``env`` is what its env file says before the first start."""
        self.folder = folder
        self.state = folder / "state"
        self.env_file = folder / "env"
        if env:
            self.env_file.write_text(env)
        self.offset = free_offset() if offset is None else offset
        self.proplet_count = proplets
        self.broker = broker
        self.output = folder / "up.log"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "swashplate", "up", "--port-offset", str(self.offset)]
        command += ["--proplets", str(self.proplet_count), "--broker", self.broker]
        command += ["--state-dir", str(self.state), "--env-file", str(self.env_file)]
        environment = without_roles(os.environ)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            self.described = poll(self._description)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _description(self) -> dict[str, Any] | None:
        assert self.process.poll() is None, self.output.read_text()
        with contextlib.suppress(NotFoundError):
            return described(self.state)
        return None

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    @property
    def proplets(self) -> list[str]:
        """Client ids of proplet-1, proplet-2, …"""
        return list(self.described["proplets"].values())

    def url(self, service: str) -> str:
        return str(self.described["urls"][service])

    @property
    def image(self) -> str:
        return self.url("oci-registry").removeprefix("http://") + "/fl-client-wasm:latest"

    def push(self, file: Path, name: str = "fl-client-wasm:latest") -> str:
        image = self.url("oci-registry").removeprefix("http://") + "/" + name
        subprocess.run([sys.executable, "-m", "swashplate", "push", str(file), image], check=True, capture_output=True)
        return image

    def call(
        self,
        method: str,
        url: str,
        body: Any = None,
        timeout: float = 100,
        *,
        token: str = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(url, data, sent | (headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def get(self, service: str, path: str) -> Any:
        status, body = self.call("GET", self.url(service) + path)
        assert status == 200, body
        return body

    def post(self, service: str, path: str, body: Any) -> tuple[int, Any]:
        return self.call("POST", self.url(service) + path, body)

    def log(self, *names: str) -> str:
        return "".join((self.state / "logs" / f"{name}.log").read_text() for name in names)

    def children(self) -> dict[int, str]:
        """Pid → command line of every descendant of ``up``."""
        parents: dict[int, int] = {}
        lines: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                pid = int(folder.name)
                parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                lines[pid] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

        def descends(pid: int) -> bool:
            while pid in parents:
                pid = parents[pid]
                if pid == self.process.pid:
                    return True
            return False

        return {pid: line for pid, line in lines.items() if descends(pid)}

    def pid(self, service: str) -> int:
        """The process of one service or of one proplet by its name."""
        pids = control.ask(self.state, control.Request(do="states"), print)["pids"]
        assert service in pids, f"{service} is not running"
        return int(pids[service])

    def kill(self, service: str) -> int:
        pid = self.pid(service)
        os.kill(pid, signal.SIGKILL)
        return pid

    def experiment(self, **changes: Any) -> dict[str, Any]:
        return {
            "experiment_id": "e",
            "round_id": f"r-{uuid.uuid4().hex[:12]}",
            "model_ref": "fl/models/global_model_v0",
            "participants": self.proplets,
            "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
            "k_of_n": 3,
            "timeout_s": 60,
            "task_wasm_image": self.image,
            **changes,
        }

    def complete(self, round_id: str, *, within: float = PATIENCE) -> Any:
        """The state of a round once it is over, however often the coordinator has to be asked again."""

        def over() -> Any:
            with contextlib.suppress(OSError):
                status, body = self.call("GET", f"{self.url('coordinator')}/rounds/{round_id}/complete?wait=20")
                if status == 200 and (body["completed"] or body["status"] in {"failed", "cancelled"}):
                    return body
            return None

        return poll(over, within=within)

    def task_ended(self, task_id: str) -> Any:
        def ended() -> Any:
            with contextlib.suppress(OSError):
                status, body = self.call("GET", f"{self.url('manager')}/tasks/{task_id}")
                if status == 200 and body["status"] in {"completed", "failed", "interrupted"}:
                    return body
            return None

        return poll(ended)
