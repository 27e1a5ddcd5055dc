"""Self-supervision beside the labels: the loop of `examples/auxiliary_loss.py`, over numbers of labels and seeds."""

import importlib.util
import pathlib
from types import ModuleType

import numpy as np

from benchmarks.claims.finding import Finding, beats, verdict
from benchmarks.claims.runs import Budget, kept

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "auxiliary_loss.py"
COUNTS, STEPS, WEIGHT = (1, 3, 10, 30), 200, 0.3
ALONE, BESIDE = "labels alone", "labels and SimCLR"


def auxiliary(budget: Budget) -> Finding:
    """Self-supervision as an auxiliary loss helps supervised training at few labels (Zhai et al., 2019).

    The loop of `examples/auxiliary_loss.py`: 200 steps, in which all labelled images train encoder and classifier by
    cross-entropy, and 0.3 times SimCLR's loss on 128 images without labels trains the same encoder; beside it the same
    loop without that term, from the same weights on the same labels. All test images. It holds if the term gains in
    every seed, at every number of labels.
    """
    counts = (3,) if budget.test else COUNTS
    found = {
        count: {
            name: [_accuracy(budget, count, weight, seed) for seed in budget.seeds]
            for name, weight in ((ALONE, 0.0), (BESIDE, WEIGHT))
        }
        for count in counts
    }
    return conclude(found)


def conclude(found: dict[int, dict[str, list[float]]]) -> Finding:
    """The finding from accuracies in percent, by labels per class and setting."""
    gains = {count: np.subtract(rows[BESIDE], rows[ALONE]) for count, rows in found.items()}
    holds = [beats(rows[BESIDE], rows[ALONE]) for rows in found.values()]
    said = ", ".join(f"{gain.mean():+.1f} at {count}" for count, gain in gains.items())
    curves = {
        name: (list(map(float, found)), np.transpose([rows[name] for rows in found.values()]).tolist())
        for name in (ALONE, BESIDE)
    }
    return Finding(
        verdict=verdict(holds, f"mean gain in points by labels per class: {said}"),
        figures={
            f"{count} label{'s' if count > 1 else ''} per class": {**rows, "gain": gains[count].tolist()}
            for count, rows in found.items()
        },
        curves={"accuracy on the test set, %": curves},
        x="labels per class",
        log=True,
    )


def example() -> ModuleType:
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("auxiliary_loss", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _accuracy(budget: Budget, count: int, weight: float, seed: int) -> float:
    steps, images = (3, "digits") if budget.test else (STEPS, "fashion_mnist")

    def compute() -> float:
        loop = example()
        return 100 * loop.learn(loop.build("simclr", images, steps), weight=weight, seed=seed, per_class=count)

    return kept(budget.root / "auxiliary" / f"{count}-{weight:g}-{steps}-{seed}.json", compute)
