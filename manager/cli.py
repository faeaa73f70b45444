"""The manager's commands."""


def manager() -> None:
    """Run the manager: it places tasks on proplets and follows them. Settings come from the environment."""
    from manager.__main__ import main

    main()
