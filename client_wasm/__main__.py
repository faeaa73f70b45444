"""``python -m client_wasm build``: build the guest from its source, or with ``--check`` prove that it was."""

from __future__ import annotations

import argparse
import sys

from client_wasm import build, build_go
from swashplate.errors import SwashplateError


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the guest was built or is as its source says, 1 with a sentence on stderr otherwise."""
    parser = argparse.ArgumentParser(prog="python -m client_wasm", description="The federated learning guest.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="build fl-client.wasm from its C source")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--go", action="store_true", help="build the guest in Go, go/fl-client.wasm, instead")
    which.add_argument(
        "--check", action="store_true", help="build elsewhere and compare with the fl-client.wasm that is here"
    )
    options = parser.parse_args(arguments)
    try:
        if options.go:
            guest, digest = build_go.GUEST, build_go.build(build_go.GUEST)
        else:
            guest, digest = build.GUEST, build.check() if options.check else build.build(build.GUEST)
    except SwashplateError as error:
        print(f"error: {error.sentence}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    print(f"{guest.name} sha256:{digest} {guest.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
