"""The commands of this room."""

from __future__ import annotations

from swashplate.commands.proplets import app as proplet


@proplet.command("run")
def run() -> None:
    """Run a proplet here: the agent at the edge that takes tasks and runs them in a sandbox."""
    from proplet.__main__ import main

    main()


def data_store() -> None:
    """Serve the site's datasets to the proplets beside them."""
    from proplet.data_store.app import main

    main()
