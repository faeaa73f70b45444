"""Build ``fl-client.wasm`` from its C source, to the same bytes everywhere.

The compiler is zig from the ``ziglang`` wheel, which brings clang, lld and wasi-libc. The bytes depend on its exact
version, because libc is compiled along with the guest: hence the pin. They do not depend on the directory, the cache or
the environment, because the sources are named relative to this directory and nothing else is passed on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from swashplate.errors import ConfigurationError, IntegrityError, SwashplateError

ZIG_VERSION = "0.17.1"
HERE = Path(__file__).resolve().parent
GUEST = HERE / "fl-client.wasm"
SOURCES = ("fl-client.c", "inputs.c", "json.c", "train.c", "common.c")
FLAGS = (
    "-target",
    "wasm32-wasi",
    "-std=gnu17",
    "-O2",
    "-s",  # no names and no paths in the output
    "-ffp-contract=off",  # a * b + c rounds twice on every machine
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
    "-Wl,--gc-sections",
    "-Wl,-z,stack-size=131072",  # zig's own default is 16 MiB, which every instance would have to be granted
)
# What finds zig, its cache and its temporary directory; CPATH and the like would change what is built.
PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


def zig_version() -> str | None:
    """The version of the installed ``ziglang`` wheel, None when there is none."""
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return None


def build(output: Path) -> str:
    """Compile the guest into ``output`` and return its sha256 in hexadecimal.

    The first build takes up to a few minutes, because zig compiles libc into its cache; later ones a second.
    ``output`` appears complete or not at all. Raises ConfigurationError when zig is missing or of another version,
    SwashplateError with the compiler's messages when the source does not compile.
    """
    version = zig_version()
    if version is None:
        raise ConfigurationError(
            "the guest is compiled by zig, and the ziglang package is not installed",
            code="zig_missing",
            hint="pip install 'swashplate[guest]'",
        )
    if version != ZIG_VERSION:
        raise ConfigurationError(
            f"ziglang {version} is installed, but the guest has the same bytes everywhere only with {ZIG_VERSION}",
            code="zig_version",
            hint="pip install 'swashplate[guest]'",
        )
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    output = output.resolve()
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as scratch:
        built = Path(scratch) / output.name
        zig = subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(built), *SOURCES],
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if zig.returncode != 0:
            raise SwashplateError(f"zig could not compile the guest:\n{zig.stderr.strip()}", code="build_failed")
        built.chmod(0o644)
        built.replace(output)
    return digest_of(output)


def check() -> str:
    """Build the guest in a temporary directory; return its sha256 when it is the one of the guest that is here.

    Raises IntegrityError when they differ or there is none, and what ``build`` raises.
    """
    with tempfile.TemporaryDirectory() as scratch:
        digest = build(Path(scratch) / GUEST.name)
    present = digest_of(GUEST) if GUEST.exists() else "missing"
    if digest != present:
        raise IntegrityError(
            f"{GUEST.name} is {present}, but its source builds to {digest}",
            hint="python -m client_wasm build",
            retryable=False,
        )
    return digest


def digest_of(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
