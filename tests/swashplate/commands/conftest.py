"""A manager on a bus in memory, as the manager's own tests have it."""

from tests.manager.conftest import world as world  # noqa: PLC0414  # pytest finds fixtures by name
