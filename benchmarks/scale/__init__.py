"""What grows with a store and what must not: `python -m benchmarks.scale`."""
