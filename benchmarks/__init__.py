"""Benchmarks: each prints a ratio against a peer that is measured in the same run."""
