"""The report of a run: one HTML file that needs nothing else, neither a network nor a server nor this library."""

from ssl_jax.report.page import write

__all__ = ["write"]
