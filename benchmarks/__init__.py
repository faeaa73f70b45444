"""Benchmarks: each prints our figure beside a baseline. ``python -m benchmarks`` lists them."""
