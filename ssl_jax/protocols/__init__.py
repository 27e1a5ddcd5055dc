"""Evaluation protocols by name: what `ssl-jax evaluate --protocol=NAME` runs. None of them knows a method."""

from ssl_jax.protocols import frozen
from ssl_jax.protocols.frame import Network, Protocol, Row, Subject, Task, row

PROTOCOLS = {
    "knn": Protocol(run=frozen.knn),
    "linear": Protocol(run=frozen.linear),
}

__all__ = ["PROTOCOLS", "Network", "Protocol", "Row", "Subject", "Task", "row"]
