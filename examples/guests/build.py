"""Makes the guests of this folder from their sources: ``python examples/guests/build.py [NAME...] [--into FOLDER]``.

The results are committed, but for Python's, which is 18 MB; nobody has to. The tools are pinned: with them the bytes are
always the same, but for Rust's, which are those of Debian's rustc 1.63.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASSEMBLYSCRIPT = "assemblyscript@0.28.20"
RUST_TARGETS = ("wasm32-wasip1", "wasm32-wasi")
WIT = "c/deps/greeter.wit"
UNAVAILABLE = os.EX_UNAVAILABLE
"""The exit status when a tool is missing."""


class Missing(Exception):  # noqa: N818
    """A tool is not there; the message says where it comes from."""


def c(target: Path) -> None:
    """A component: zig compiles its core module, wasm-tools puts the interface around it."""
    tools = wheel("wasm-tools")
    with tempfile.TemporaryDirectory() as scratch:
        core, embedded = f"{scratch}/core.wasm", f"{scratch}/embedded.wasm"
        flags = "-target wasm32-freestanding -std=gnu17 -Os -s -nostdlib -Wall -Wextra -Werror -Wl,--no-entry"
        compiler = [sys.executable, "-m", "ziglang", "cc", *flags.split(), "-Wl,-z,stack-size=65536"]
        run(*compiler, "-o", core, "greeter.c", folder="c", hint="pip install 'swashplate[guests]'")
        run(tools, "component", "embed", ".", core, "--world", "greeter", "-o", embedded, folder="c")
        run(tools, "component", "new", embedded, "-o", str(target))


def rust(target: Path) -> None:
    """A WASI command."""
    compiler, triple = rustc()
    flags = ("opt-level=s", "lto=fat", "panic=abort", "strip=symbols", "codegen-units=1")
    options = [part for flag in flags for part in ("-C", flag)]
    run(compiler, "--target", triple, *options, "words.rs", "-o", str(target), folder="rust")


def assemblyscript(target: Path) -> None:
    """Functions of numbers."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not there: it comes with Node.js")
    options = ("-Oz", "--runtime", "stub", "--use", "abort=", "-o", str(target))
    run(
        npm,
        "exec",
        "--yes",
        f"--package={ASSEMBLYSCRIPT}",
        "--",
        "asc",
        "statistics.ts",
        *options,
        folder="assemblyscript",
    )


def python(target: Path) -> None:
    """A component with CPython in it."""
    tool = wheel("componentize-py")
    run(tool, "-d", f"../{WIT}", "-w", "functions", "componentize", "greeter", "-o", str(target), folder="python")


GUESTS = {
    "c": (c, "greeter.wasm"),
    "rust": (rust, "words.wasm"),
    "assemblyscript": (assemblyscript, "statistics.wasm"),
    "python": (python, "greeter.wasm"),
}


def wheel(command: str) -> str:
    """The command that a wheel has put beside this Python."""
    path = Path(sys.executable).with_name(command)
    if not path.is_file():
        raise Missing(f"{command} is not there: pip install 'swashplate[guests]'")
    return str(path)


def rustc() -> tuple[str, str]:
    """A compiler that has Rust's library for WASI, and the name that it has for the target."""
    for compiler in (os.environ.get("RUSTC"), shutil.which("rustc"), "/usr/bin/rustc"):
        for triple in RUST_TARGETS:
            if compiler and Path(compiler).is_file() and has_library(compiler, triple):
                return compiler, triple
    raise Missing(
        "no rustc has the library for WASI: rustup target add wasm32-wasip1,"
        " or apt-get install rustc libstd-rust-dev-wasm32 lld"
    )


def has_library(compiler: str, triple: str) -> bool:
    asked = [compiler, "--print", "target-libdir", "--target", triple]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    return said.returncode == 0 and Path(said.stdout.strip()).is_dir()


def run(*command: str, folder: str = ".", hint: str = "") -> None:
    done = subprocess.run(command, cwd=HERE / folder, capture_output=True, text=True, check=False)
    if "No module named ziglang" in done.stderr:
        raise Missing(f"zig is not there: {hint}")
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the guests of this folder from their sources.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(GUESTS)}; without, all of them")
    parser.add_argument("--into", type=Path, default=HERE, help="where the folders with the results are")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(GUESTS):
        parser.error(f"there is no guest {', '.join(sorted(unknown))}")
    for name in asked.names or GUESTS:
        make, file = GUESTS[name]
        target = asked.into.resolve() / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(target)
        except Missing as missing:
            print(f"{name}: {missing}", file=sys.stderr)
            sys.exit(UNAVAILABLE)
        target.chmod(0o644)
        print(f"{name}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
