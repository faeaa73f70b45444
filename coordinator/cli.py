"""The commands ``swashplate coordinator``, ``swashplate model-registry`` and ``swashplate aggregator``."""

from __future__ import annotations


def coordinator() -> None:
    """Run the coordinator: it leads rounds of federated learning."""
    from coordinator.__main__ import main

    main()


def model_registry() -> None:
    """Run the model registry: it keeps every version of every model."""
    from coordinator.registry import main

    main()


def aggregator() -> None:
    """Run the aggregator: it averages the updates of a round into a model."""
    from coordinator.aggregator import main

    main()
