"""What a running stack has written about itself, for whoever looks for it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from swashplate.errors import NotFoundError
from swashplate.folders import is_held

STATE_FILE = "stack.json"


def described(state_dir: Path) -> dict[str, Any]:
    """Raises ``NotFoundError`` when no stack runs there."""
    if is_held(state_dir):  # what a killed one left behind does not count
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((state_dir / STATE_FILE).read_text())
            return found
    raise NotFoundError(f"no stack is running in {state_dir}", code="not_running", hint="start one with: swashplate up")
