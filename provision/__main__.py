"""``python -m provision``, for a process that wants the identities without importing this room."""

from __future__ import annotations

import sys

from provision.cli import provision
from swashplate.errors import SwashplateError

if __name__ == "__main__":
    try:
        provision(prog_name="python -m provision")
    except SwashplateError as error:
        print(f"error: {error.sentence}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
