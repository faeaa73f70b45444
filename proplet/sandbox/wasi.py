"""What a guest finds through WASI: its arguments and environment, its directories, and where it prints."""

from __future__ import annotations

import wasmtime

from proplet.sandbox.entry import GuestError
from proplet.sandbox.frames import Job

OWN = "/in", "/out"


def directories(job: Job) -> list[tuple[str, str, bool]]:
    """Those of ``Job.directories``, and before them ``OWN``."""
    folder = job.folder  # as text: a Path costs as much as the guest
    return [(f"{folder}/in", OWN[0], False), (f"{folder}/out", OWN[1], True), *job.directories]


def configured(job: Job, stderr: int) -> wasmtime.WasiConfig:
    """``stderr`` is a descriptor, which stays open. Raises ``GuestError``."""
    wasi = wasmtime.WasiConfig()
    wasi.argv = [job.name, *job.inputs]
    if job.env:
        wasi.env = sorted(job.env.items())
    try:
        wasi.stdout_file = f"{job.folder}/stdout"
    except wasmtime.WasmtimeError as error:
        raise GuestError("the file for stdout cannot be made", "task_folder") from error
    wasi.stderr_file = f"/proc/self/fd/{stderr}"  # a callback would wake a thread of the runtime in every run
    for here, path, write in directories(job):
        try:
            wasi.preopen_dir(here, path, write)  # it takes no keyword
        except wasmtime.WasmtimeError as error:
            code = "task_folder" if path in OWN else "directory_unavailable"
            raise GuestError(f"the directory for {path} cannot be opened", code) from error
    return wasi
