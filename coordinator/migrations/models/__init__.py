"""Of models."""
