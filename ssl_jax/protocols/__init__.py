"""Evaluation protocols by name: what `ssl-jax evaluate --protocol=NAME` runs. None of them knows a method."""

from ssl_jax.protocols import dense, frozen, trained
from ssl_jax.protocols.frame import Network, Protocol, Row, Subject, Task, row

PROTOCOLS = {
    "knn": Protocol(run=frozen.knn),
    "linear": Protocol(run=frozen.linear),
    "augmented": Protocol(run=trained.augmented, network=True),
    "svm": Protocol(run=frozen.svm, sets=frozen.boxed_sets),
    "fewshot": Protocol(run=frozen.fewshot),
    "retrieval": Protocol(run=frozen.retrieval),
    "quality": Protocol(run=frozen.quality, labels=False),
    "semi": Protocol(run=trained.semi, network=True),
    "curve": Protocol(run=trained.curve, network=True),
    "finetune": Protocol(run=trained.finetune, network=True),
    "transfer": Protocol(run=trained.transfer, labels=False, network=True, sets=trained.transfer_sets),
    "detection": Protocol(run=dense.detection, labels=False, network=True, sets=dense.boxed_sets),
    "segmentation": Protocol(run=dense.segmentation, labels=False, network=True, sets=dense.boxed_sets),
}


def describe() -> str:
    """Every protocol in a line, and its options with their defaults in another."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        options = ", ".join(f"{option}={default!r}" for option, default in protocol.options.items())
        lines += [f"{name}: {protocol.idea}", f"    {options}"]
    return "\n".join(lines)


__all__ = ["PROTOCOLS", "Network", "Protocol", "Row", "Subject", "Task", "describe", "row"]
