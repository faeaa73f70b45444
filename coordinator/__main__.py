"""``python -m coordinator``."""

from __future__ import annotations

from coordinator.app import serve
from coordinator.settings import CoordinatorSettings
from swashplate import service


def main() -> None:
    service.run(CoordinatorSettings, serve, name="coordinator")


if __name__ == "__main__":
    main()
