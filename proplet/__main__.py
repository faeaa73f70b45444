"""``python -m proplet``."""

import os
import sys
from typing import Any

# structlog's console renderer imports rich wherever it is installed: megabytes that an agent never uses.
modules: dict[str, Any] = sys.modules
modules.setdefault("rich", None)
# There are no plugins of pydantic here, and to look for them reads what is known of every package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from proplet.app import serve  # noqa: E402
from proplet.settings import PropletSettings  # noqa: E402
from swashplate import service  # noqa: E402


def main() -> None:
    service.run(PropletSettings, serve, name="proplet")


if __name__ == "__main__":
    main()
