"""Claims of the field, tried on real data: `python -m benchmarks.claims NAME`."""
