"""Every method of the library in one table, by what its features are worth after one and the same small budget."""

import statistics
from typing import Any

import numpy as np

from benchmarks.claims.finding import Finding, verdict
from benchmarks.claims.runs import Budget
from ssl_jax import catalogue

DATA = "fashion_mnist"
YARDSTICK = "supervised"
FIGURES = {"linear": "linear", "k-NN": "knn", "10 labels": "labels_10"}


def ranking(budget: Budget) -> Finding:
    """At equal budget OBoW is the best of all methods (the tutorial's table, on ImageNet with ResNet-50).

    Every method's small form, 400 steps of 256 images of Fashion-MNIST, in the order of its linear probe; supervised
    training stands in the table as a yardstick. The figures are those of `ssl_jax/measured.json`, which
    `python -m benchmarks.methods --seeds=0,1,2 --write` measures: accuracies on the test set in percent, and
    processor time. Steps and images are equal, not the time. It holds if OBoW's mean linear accuracy is the highest of
    the self-supervised methods. Methods with a ViT have another encoder, and an untrained one far below; the picture
    shows what each has gained over its own. What is known of the reasons: the notes in `docs/benchmarks/methods.md`.
    """
    return conclude(catalogue.measured())


def conclude(measured: dict[str, dict[str, Any]]) -> Finding:
    """The finding from the table of measurements, by config."""
    rows = {config.partition(":")[0]: figures for config, figures in measured.items() if figures["data"] == DATA}
    seeds = {name: list(catalogue.by_seed(row).values()) for name, row in rows.items()}
    linear = {name: [seed["run"]["linear"] for seed in found] for name, found in seeds.items()}
    order = sorted(rows, key=lambda name: -statistics.mean(linear[name]))
    found = {
        name: {
            **{title: [seed["run"][key] for seed in seeds[name]] for title, key in FIGURES.items()},
            "CPU s": [float(seed["cpu_seconds"]) for seed in seeds[name]],
        }
        for name in order
    }
    gains = {
        name: {
            title: float(np.mean([seed["run"][key] - seed["untrained"][key] for seed in seeds[name]]))
            for title, key in FIGURES.items()
        }
        for name in order
    }
    own = [name for name in order if name != YARDSTICK]
    place = own.index("obow") + 1
    basis = (
        f"by the linear probe OBoW is number {place} of {len(own)} with {statistics.mean(linear['obow']):.1f}; "
        f"the best is {own[0]} with {statistics.mean(linear[own[0]]):.1f}"
    )
    return Finding(
        verdict=verdict([place == 1], basis), figures=found, tables={"points above the untrained encoder": gains}
    )
