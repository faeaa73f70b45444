"""``python -m manager``."""

from manager.app import serve
from manager.settings import ManagerSettings
from swashplate import service


def main() -> None:
    service.run(ManagerSettings, serve, name="manager")


if __name__ == "__main__":
    main()
