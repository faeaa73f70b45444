"""The sandbox alone: one process that runs guests, made again when a limit ended it."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import wasmtime

from proplet.sandbox.bounds import Bounds
from proplet.sandbox.compiler import compile_binary
from proplet.sandbox.engine import Configuration
from proplet.sandbox.frames import HEADER, STDERR, Answer, Job, Limits, packed_message

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20
ENDS_PROCESS = {"deadline", "cpu_limit", "output_limit", "file_limit"}
"""The pool replaces it after any trap; what is tested here needs it only where the watch has ended it."""
MAIN = """
import socket, sys
from pathlib import Path
from proplet.sandbox.bounds import Bounds
from proplet.sandbox.compiler import compile_binary
from proplet.sandbox.engine import Configuration
from proplet.sandbox.frames import Job, messages
from proplet.sandbox.module_cache import ModuleCache
from proplet.sandbox.performance import perform
from proplet.sandbox.watch import Watch

connection = socket.socket(fileno=int(sys.argv[1]))
modules, watch = ModuleCache(Path(sys.argv[2])), Watch(connection)
for asked in messages(connection):
    watch.answer(perform(Job.of(asked), modules, watch))
"""


@dataclass
class Ran:
    """What a run gave; ``out`` is its ``/out``."""

    answer: Answer
    stdout: bytes
    log: bytes
    out: Path

    @property
    def code(self) -> str:
        return self.answer.code

    @property
    def used(self) -> dict[str, float]:
        return self.answer.used


@dataclass
class Sandbox:
    """``root`` is where tasks have their folders, ``env`` the environment of the process."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def run(
        self,
        guest: str | bytes,
        *,
        name: str = "task",
        limits: dict | None = None,
        given: dict | None = None,
        bounds: Bounds | None = None,
        **fields,
    ) -> Ran:
        """``guest`` is WAT or WASM, ``limits`` are those of ``frames.Limits``, ``given`` files of ``/in``, the rest is for ``frames.Job``."""
        binary = wasmtime.wat2wasm(guest) if isinstance(guest, str) else guest
        folder = Path(tempfile.mkdtemp(dir=self.root, prefix="task-"))
        (folder / "in").mkdir()
        (folder / "out").mkdir()
        for path, content in (given or {}).items():
            (folder / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "in" / path).write_bytes(content)
        digest = "sha256:" + hashlib.sha256(binary).hexdigest()
        stored = self.root / digest.removeprefix("sha256:")
        stored.write_bytes(binary)
        job = Job(
            digest=digest,
            binary=str(stored),
            name=name,
            folder=str(folder),
            inputs=fields.pop("inputs", []),
            cli_args=fields.pop("cli_args", []),
            env=fields.pop("env", {}),
            limits=Limits(
                **{"memory": 16 << 20, "output": 1 << 20, "files": 100, "wall_s": PATIENCE, **(limits or {})}
            ),
            **fields,
        )
        code = Configuration(job.limits.fuel > 0, job.deterministic, job.limits.stack)
        refused = compile_binary(stored, digest, self._modules, code, bounds or Bounds())
        answer, log = (refused, b"") if refused.error else self._asked(job)
        stdout = folder / "stdout"
        return Ran(answer, stdout.read_bytes() if stdout.exists() else b"", log, folder / "out")

    @property
    def _modules(self) -> Path:
        folder = self.root / "modules"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _asked(self, job: Job) -> tuple[Answer, bytes]:
        if self._process is None:
            self._start()
        self._ours.sendall(packed_message(job))
        log = b""
        while True:
            length, kind = HEADER.unpack(self._exactly(HEADER.size))
            payload = self._exactly(length)
            if kind != STDERR:
                answer = Answer(**json.loads(payload))
                if answer.code in ENDS_PROCESS:
                    self.close()
                return answer, log
            log += payload

    def _exactly(self, count: int) -> bytes:
        got = self._ours.recv(count, socket.MSG_WAITALL)
        if len(got) < count:
            raise EOFError("the sandbox's process ended without an answer")
        return got

    def _start(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", MAIN, str(theirs.fileno()), str(self._modules)],
                env={"PYTHONPATH": str(ROOT), **self.env},
                cwd=self.root,
                pass_fds=[theirs.fileno()],
            )

    @property
    def process(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        if self._process is not None:
            self._ours.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.close()
        shutil.rmtree(self.root, ignore_errors=True)


def errno_of(ran: Ran) -> int:
    """Of a guest that exits with the number of the error that it met, 0 for none."""
    if not ran.answer.error:
        return 0
    assert ran.code in {"guest_exit", "capability_refused"}, ran.answer
    return int(ran.answer.error.partition("status ")[2].partition(";")[0])


def escaped(text: str) -> str:
    return "".join(f"\\{byte:02x}" for byte in text.encode())
