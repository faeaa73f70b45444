"""``python -m proxy``: the registry proxy."""

from __future__ import annotations

from proxy.app import serve
from proxy.settings import ProxySettings
from swashplate import service


def main() -> None:
    service.run(ProxySettings, serve, name="proxy")


if __name__ == "__main__":
    main()
