"""The commands of this room."""

from __future__ import annotations


def proplet() -> None:
    """Run a proplet: the agent at the edge that takes tasks and runs them in a sandbox."""
    from proplet.__main__ import main

    main()


def data_store() -> None:
    """Serve the site's datasets to the proplets beside them."""
    from proplet.data_store import main

    main()
