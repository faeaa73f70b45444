"""Rounds of federated learning: a coordinator, the registry of models, and the aggregator, each its own process."""
