"""``python -m provision.identity``."""

from __future__ import annotations

from provision.identity.app import serve
from provision.identity.settings import IdentitySettings
from swashplate import service


def main() -> None:
    service.run(IdentitySettings, serve, name="identity")


if __name__ == "__main__":
    main()
