"""What pretraining is worth when labels are few: fine-tuning beside supervised training, over the number of labels."""

import pathlib

import numpy as np

from benchmarks.claims.finding import Finding, beats, verdict
from benchmarks.claims.runs import Budget, kept, load, pretrain
from ssl_jax import evaluate
from ssl_jax.evaluation.curve import labels_saved
from ssl_jax.protocols import trained

COUNTS = (1, 3, 10, 30, 100, 300)
FEW = 30  # labels per class up to which the claim is that pretraining wins
DRAWS = 3  # of few labels, of which some are better than others; above, one for each seed


def label_curve(budget: Budget) -> Finding:
    """Pretraining and fine-tuning beats supervised training from scratch when labels are few (Chen et al., 2020).

    SimCLR's small form (400 steps of 256 images of Fashion-MNIST, whose labels nobody looks at) is fine-tuned on so
    many labels of each class, and the same network is trained from scratch on the same labels: 30 passes, from scratch
    no fewer than 300 steps at the rate that random weights take (`evaluation.from_scratch`). Each seed has its own
    pretraining, and three draws of up to 30 labels per class, one of more; all test images. It holds if fine-tuning is
    above training from scratch in every seed at every number of labels up to 30 per class. "Times fewer labels" is how
    many times as many labels training from scratch takes for the accuracy of fine-tuning, along the line between its
    points; it is left out where its curve does not contain that accuracy.
    """
    counts = (1, 3) if budget.test else COUNTS
    runs = [pretrain(budget, budget.config("simclr"), seed, {}) for seed in budget.seeds]
    found = [
        [_accuracies(run, count, seed, budget.test) for count in counts]
        for run, seed in zip(runs, budget.seeds, strict=True)
    ]
    return conclude(counts, found)


def conclude(counts: tuple[int, ...], found: list[list[dict[str, float]]]) -> Finding:
    """The finding from accuracies `{"fine_tuned", "from_scratch"}` of each seed at each number of labels per class."""
    tuned, scratch = (np.array([[f[key] for f in row] for row in found]) for key in ("fine_tuned", "from_scratch"))
    saved = [saved_labels(counts, *pair) for pair in zip(tuned, scratch, strict=True)]
    factors = {count: [s["times_fewer"][count] for s in saved if s["times_fewer"][count]] for count in counts}
    figures = {
        f"{count} label{'s' if count > 1 else ''} per class": {
            "fine-tuned": list(tuned[:, i]),
            "from scratch": list(scratch[:, i]),
            **({"times fewer labels": factors[count]} if len(factors[count]) == len(found) else {}),
        }
        for i, count in enumerate(counts)
    }
    holds = [beats(tuned[:, i], scratch[:, i]) for i, count in enumerate(counts) if count <= FEW]
    mean = saved_labels(counts, tuned.mean(axis=0), scratch.mean(axis=0))
    crossing = mean["crossing"]
    end = f"it leads up to {counts[-1]} labels" if crossing is None else f"the curves cross at {crossing:.0f} labels"
    some = [f"{factor:.1f} at {count}" for count, factor in mean["times_fewer"].items() if factor]
    basis = (
        f"{end} per class; times fewer labels for the same accuracy, on the mean curves: {', '.join(some) or 'none'}"
    )
    curve = {
        name: (list(map(float, counts)), values.tolist())
        for name, values in (("fine-tuned", tuned), ("from scratch", scratch))
    }
    return Finding(
        verdict=verdict(holds, basis),
        figures=figures,
        curves={"accuracy on the test set, %": curve},
        x="labels per class",
        log=True,
    )


def saved_labels(counts: tuple[int, ...], tuned: np.ndarray, scratch: np.ndarray) -> dict:
    """See `evaluation.curve.labels_saved`, for two curves."""
    rows = [
        {"labels_per_class": count, "fine_tuned": {"accuracy": float(t)}, "from_scratch": {"accuracy": float(s)}}
        for count, t, s in zip(counts, tuned, scratch, strict=True)
    ]
    return labels_saved(rows)


def _accuracies(run: pathlib.Path, count: int, seed: int, test: bool) -> dict[str, float]:
    """Of one seed at one number of labels, in percent."""
    trials = DRAWS if count <= FEW and not test else 1

    def compute() -> dict[str, float]:
        experiment, state, initial = load(run)
        task = evaluate.task_of(experiment, seed=seed)
        values = {}
        for name, weights in (("fine_tuned", state), ("from_scratch", initial)):
            subject = evaluate.subject_of(experiment, weights, name)
            [row] = trained.curve(subject, task, labels_per_class=(count,), trials=trials)
            values[name] = 100 * row["value"]
        return values

    return kept(run / f"curve-{count}-{trials}-{seed}.json", compute)
